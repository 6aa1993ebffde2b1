"""Puts the adapter of a run's method on a base model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.config import PeftConfig
from peft.utils.constants import DUMMY_TARGET_MODULES
from peft.utils.error import NoMatchingPeftModuleError
from torch import nn
from transformers import PreTrainedModel

from lora2.budget import plan_budget
from lora2.config import Lora2Config
from lora2.errors import UserError
from lora2.penalty import adapted_layers
from lora2.targets import DEFAULT_TARGET_MODULES
from lora2.training.arguments import Method
from lora2.training.models import BaseModel

# What PEFT trains beside the adapter for sequence classification, whatever else is asked for.
_HEADS = ("classifier", "score")
_SHARED_WITH_LORA = (
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
)


def add_adapter(base: BaseModel, method: Method, options: dict[str, Any]) -> PeftModel:
    """Return the model with a new adapter; `options` are fields of Lora2Config.

    Raises:
        UserError: options that cannot be meant, or no module of those names in the model.
    """
    return wrap(base.model, adapter_config(base, method, options))


def wrap(model: PreTrainedModel, config: PeftConfig) -> PeftModel:
    """Do what `get_peft_model` does, and say in one sentence what cannot be done.

    Raises:
        UserError: no module of those names in the model, or a config that does not suit it.
    """
    targets = config.target_modules
    try:
        return get_peft_model(model, config)
    except UserError:
        raise
    except NoMatchingPeftModuleError as error:
        shown = targets if isinstance(targets, str) else ", ".join(sorted(targets or ()))
        raise UserError(
            f"target_modules: no module of this model ({model.config.model_type}) is chosen by "
            f"{shown or 'the defaults'}, in view of exclude_modules and layers_to_transform; write "
            "names of its linear layers, or all-linear."
        ) from error
    except ValueError as error:
        raise UserError(f"adapter: {' '.join(str(error).split())}") from error


def adapter_config(base: BaseModel, method: Method, options: dict[str, Any]) -> PeftConfig:
    """Return the PEFT config of a method."""
    options = dict(options)
    saved = options.pop("modules_to_save", None) or modules_without_weights(base.new_modules)
    common: dict[str, Any] = {"task_type": TaskType.SEQ_CLS, "modules_to_save": list(saved) or None}
    # The checked config, for all methods: a mistake in an option is one whatever the method is.
    lora2 = Lora2Config(**common, **_one_word(options))
    if method == "lora2":
        return lora2
    if method == "head":
        return LoraConfig(**common, target_modules=DUMMY_TARGET_MODULES)
    shared = {name: getattr(lora2, name) for name in _SHARED_WITH_LORA}
    if shared["target_modules"] is None:
        model_type = base.model.config.model_type
        shared["target_modules"] = set(DEFAULT_TARGET_MODULES.get(model_type, ())) or None
    return LoraConfig(**common, r=lora2.k, **shared)


def modules_without_weights(new_modules: Sequence[str]) -> list[str]:
    """Return the modules that must be trained whole, since the checkpoint lacks them.

    A pooler, for instance, that was never pretrained would stay random if it were frozen.
    """
    return [name for name in new_modules if not set(name.split(".")) & set(_HEADS)]


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Return the trainable parameters of the adapter and of all else (the head)."""
    counts = {"adapter": 0, "head": 0}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            of_adapter = any(part.startswith(("lora2_", "lora_")) for part in name.split("."))
            counts["adapter" if of_adapter else "head"] += parameter.numel()
    return counts


def check_schedule(model: PeftModel, steps: int) -> str:
    """Return the budget schedule in words.

    Raises:
        UserError: it does not fit the number of optimizer steps.
    """
    config = model.peft_config["default"]
    if not isinstance(config, Lora2Config):
        return "none"
    layers = adapted_layers(model, "default").values()
    ranks = [len(layer.parameters_of("default")["lam"]) for layer in layers]
    plan = plan_budget(config, ranks, steps)
    if plan.target == plan.initial:
        return f"{plan.initial} singular values, none are pruned"
    return (
        f"{plan.initial} → {plan.target} singular values ({plan.shape}), pruned from step "
        f"{plan.warmup_steps} to {plan.last_change} of {steps}"
    )


def _one_word(options: dict[str, Any]) -> dict[str, Any]:
    """A regular expression or 'all-linear' is given as a list of one word."""
    names = {
        name: value[0]
        for name in ("target_modules", "exclude_modules")
        if isinstance(value := options.get(name), list)
        and len(value) == 1
        and (value[0] == "all-linear" or not value[0].replace("_", "").replace(".", "").isalnum())
    }
    return options | names
