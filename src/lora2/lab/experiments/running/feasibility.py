"""What would make a run fail, found before the first of many is started."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)

from lora2.errors import UserError
from lora2.lab.experiments.description import RunDescription
from lora2.lab.experiments.running.execution import Place, settings_of
from lora2.training.base_models.models import BaseModel, load_config, set_classifier_dropout
from lora2.training.budgets import budget_in_words
from lora2.training.methods.registry import METHODS, method_of
from lora2.training.objectives.registry import objective_of
from lora2.training.on_disk.run_folder import RunFolder
from lora2.training.options.arguments import RunSettings
from lora2.training.options.named_tasks import ObjectiveName
from lora2.training.trainer.trainer_arguments import optimizer_steps, training_arguments


def check_feasible(descriptions: Iterable[RunDescription], place: Place) -> None:
    """Check data, options, schedule and budget of every run, on models without weights.

    Raises:
        UserError: the data folder is none, or naming the first run that could not be made.
    """
    if place.data_dir is not None and not Path(place.data_dir).is_dir():
        raise UserError(
            f"data_dir: {place.data_dir} is no folder; give the one that holds CoLA, STS-B, ..."
        )
    first: dict[RunDescription, RunDescription] = {}
    for description in descriptions:
        # No seed makes a run impossible.
        first.setdefault(replace(description, seed=0), description)
    rows: dict[str, int] = {}
    configs: dict[str, PretrainedConfig] = {}
    for description in first.values():
        with naming(description):
            settings = checked_settings(description, place)
            data, model = str(settings.data), settings.model.model
            if data not in rows:
                rows[data] = len(objective_of(settings).load_data(settings).train)
            # Known models too are checked: one that cannot be loaded is one mistake.
            if model not in configs:
                configs[model] = load_config(model)
            checked_steps(settings, rows[data], configs[model])


# Presets have these objectives alone.
_KINDS: Mapping[str, Any] = {
    "classification": AutoModelForSequenceClassification,
    "sft": AutoModelForCausalLM,
}


@contextmanager
def naming(description: RunDescription) -> Iterator[None]:
    """Put the name of a run before a mistake that is found in it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{description.name}: {error}") from error


def checked_settings(description: RunDescription, place: Place) -> RunSettings:
    """Return the options of `lora2 train` that a description means, names checked.

    Raises:
        UserError: a method or an option that there is not.
    """
    settings = settings_of(description, place)
    if description.method not in METHODS:
        raise UserError(f"method: {description.method!r} is none of {', '.join(METHODS)}.")
    # Options that no group has would be passed over, and the run be another than its name says.
    unknown = description.options.keys() - settings.to_options().keys()
    if unknown:
        raise UserError(f"{min(unknown)} is no option of a run.")
    return settings


def checked_steps(settings: RunSettings, rows: int, config: PretrainedConfig) -> int:
    """Return the optimizer steps of a run on so many rows, of a model of these sizes.

    Raises:
        UserError: an option, the schedule or the budget does not suit them.
    """
    steps = optimizer_steps(training_arguments(settings, RunFolder(settings.folder)), rows)
    own = copy.deepcopy(config)
    set_classifier_dropout(own, settings.model.classifier_dropout)
    base = BaseModel(empty_model(own, settings.objective), ())
    model = method_of(settings).build(base, settings.adapter, steps)
    budget_in_words(model, steps)
    return steps


def empty_model(config: PretrainedConfig, objective: ObjectiveName) -> PreTrainedModel:
    """Return a model of these sizes on the meta device: shapes without memory."""
    kind: Any = _KINDS[objective]
    with torch.device("meta"):
        model: PreTrainedModel = kind.from_config(config)
    return model
