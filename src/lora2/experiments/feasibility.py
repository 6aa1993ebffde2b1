"""What would make a run fail, found before the first of many is started."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from lora2.errors import UserError
from lora2.experiments.description import RunDescription
from lora2.experiments.execution import Place, settings_of
from lora2.training.adapters import check_schedule
from lora2.training.methods.registry import METHODS
from lora2.training.models import BaseModel, load_config
from lora2.training.prepare import load_data, optimizer_steps, training_arguments
from lora2.training.run_folder import RunFolder


def check_feasible(descriptions: Iterable[RunDescription], place: Place) -> None:
    """Check data, options, schedule and budget of every run, on models without weights.

    Raises:
        UserError: naming the first run that could not be made, and why.
    """
    rows: dict[str, int] = {}
    for description in descriptions:
        settings = settings_of(description, place)
        try:
            if description.task not in rows:
                rows[description.task] = len(load_data(settings).train)
            arguments = training_arguments(settings, RunFolder(settings.folder))
            steps = optimizer_steps(arguments, rows[description.task])
            model = METHODS[description.method].build(
                BaseModel(empty_model(description.model), ()), settings.adapter, steps
            )
            check_schedule(model, steps)
        except UserError as error:
            raise UserError(f"{description.name}: {error}") from error


def empty_model(name: str) -> PreTrainedModel:
    """Return a classifier of the model's sizes on the meta device: shapes without memory."""
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForSequenceClassification.from_config(_config(name))
    return model


@lru_cache
def _config(name: str):  # type: ignore[no-untyped-def]
    return load_config(name)
