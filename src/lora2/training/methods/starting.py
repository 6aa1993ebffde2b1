"""Trained adapters: one of LoRA² to continue from, or a LoRA that becomes one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from peft import TaskType
from peft.utils import PeftType
from torch import nn
from transformers import PretrainedConfig
from transformers.utils import CONFIG_NAME as MODEL_CONFIG

from lora2.errors import UserError
from lora2.exchange.from_lora import import_lora, importable_config
from lora2.support.field_types import shortened
from lora2.training.base_models.models import BaseModel
from lora2.training.methods.method import Options
from lora2.training.methods.whole_modules import keep_precise
from lora2.training.on_disk.saved_config import read_saved_config
from lora2.tuners.base.loading import find_adapter, load_adapter, read_adapter_config
from lora2.tuners.lora2.config import SCHEDULE_FIELDS, Lora2Config
from lora2.tuners.lora2.layer import lora2_layers

# These fields say how an adapter is trained; the others say what it is.
_SCHEDULE = (*SCHEDULE_FIELDS, "lora_dropout")
# An adapter of LoRA² keeps these fields, and a LoRA that becomes one gets them from the options.
_FORM = ("orthogonality", "orthogonality_terms", "orth_reg_weight", "lora_alpha")
_NUMBERS = "numbers"


def continue_from(base: BaseModel, path: Path, options: Options) -> nn.Module:
    """Return the model with the adapter in `path`, to be trained and pruned by these options.

    Raises:
        UserError: no adapter, or one that does not fit the model or its task.
    """
    folder = find_adapter(path, "start_from")
    fields = {name: options[name] for name in _SCHEDULE}
    config = read_adapter_config(folder)
    ours = config.peft_type == PeftType["LORA2"]
    if not ours:
        importable_config(folder)
    if config.task_type != base.task_type:
        wanted = "without a task type" if base.task_type is None else base.task_type.value
        raise UserError(
            f"start_from: the adapter in {folder} is for {config.task_type}, and this run is "
            f"{wanted}; give one that was trained for the same."
        )
    _check_labels(base, folder)
    keep_precise(base.model, config)
    if not ours:
        return import_lora(base.model, folder, **fields, **{name: options[name] for name in _FORM})
    adapted = load_adapter(base.model, folder, is_trainable=True)
    saved: Lora2Config = adapted.peft_config["default"]
    for name in _FORM:
        if options[name] not in (getattr(saved, name), getattr(Lora2Config, name)):
            raise UserError(
                f"{name}={options[name]}: the adapter in {folder} was trained with "
                f"{getattr(saved, name)}, and this training uses the same; leave {name} out."
            )
    # replace() checks the fields again. The λ of a finished run has only the values it kept.
    adapted.peft_config["default"] = replace(saved, **fields)
    for layer in lora2_layers(adapted, "default").values():
        layer.add_dropout("default", fields["lora_dropout"])
    return adapted


def imported(model: Any, folder: Path) -> nn.Module:
    """Return a trained model with its LoRA or AdaLoRA, saved in a folder, as LoRA²."""
    return import_lora(model.unload(), folder).eval()


def _check_labels(base: BaseModel, folder: Path) -> None:
    """Check that an adapter was trained for the labels of this run, where its run has saved them.

    Raises:
        UserError: its head would mean other labels.
    """
    if base.task_type == TaskType.CAUSAL_LM or not (folder / MODEL_CONFIG).is_file():
        return
    before, now = _labels(read_saved_config(folder)), _labels(base.model.config)
    # Without names, PEFT finds a head of another size.
    if before and now and before != now:
        raise UserError(
            f"start_from: the adapter in {folder} was trained for {_in_words(before)}, and the "
            f"data of this run have {_in_words(now)}; give data with the same labels, or leave "
            "start_from out."
        )


def _labels(config: PretrainedConfig) -> list[str]:
    """Return the names of what a head tells apart; empty if they have none."""
    if config.problem_type == "regression":
        return [_NUMBERS]
    names = list(config.id2label.values())
    # transformers writes these names where none are given.
    return [] if names == [f"LABEL_{index}" for index in range(len(names))] else names


def _in_words(labels: list[str]) -> str:
    if labels == [_NUMBERS]:
        return _NUMBERS
    return f"the {len(labels)} labels {shortened(', '.join(labels))}"
