"""What the PEFT methods share: heads, target modules, and errors in one sentence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from peft import TaskType, get_peft_model
from peft.config import PeftConfig
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.error import NoMatchingPeftModuleError
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lora2.errors import UserError
from lora2.targets import DEFAULT_TARGET_MODULES
from lora2.training.methods.method import Options
from lora2.training.models import BaseModel

HEADS = ("classifier", "score")
"""What PEFT trains beside the adapter for sequence classification, whatever else is asked for."""

_PLACE = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")


def wrap(model: PreTrainedModel, config: PeftConfig) -> nn.Module:
    """Do what `get_peft_model` does, and say in one sentence what cannot be done.

    Raises:
        UserError: no module of those names in the model, or a config that does not suit it.
    """
    targets = getattr(config, "target_modules", None)
    try:
        adapted: nn.Module = get_peft_model(model, config)
        return adapted
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


def with_head(base: BaseModel, options: Options) -> dict[str, Any]:
    """Return the fields by which PEFT trains and saves the head with any adapter."""
    saved = options.get("modules_to_save") or modules_without_weights(base.new_modules)
    return {"task_type": TaskType.SEQ_CLS, "modules_to_save": list(saved) or None}


def modules_without_weights(new_modules: Sequence[str]) -> list[str]:
    """Return the modules that must be trained whole, since the checkpoint lacks them.

    A pooler, for instance, that was never pretrained would stay random if it were frozen.
    """
    return [name for name in new_modules if not set(name.split(".")) & set(HEADS)]


def place(
    model: PreTrainedModel,
    options: Options,
    defaults: Mapping[str, Sequence[str]] = DEFAULT_TARGET_MODULES,
) -> dict[str, Any]:
    """Return the fields that choose modules, with the architecture's default filled in."""
    chosen = one_word({name: options.get(name) for name in _PLACE})
    if chosen["target_modules"] is None:
        chosen["target_modules"] = set(defaults.get(model.config.model_type, ())) or None
    return chosen


def one_word(options: Options) -> dict[str, Any]:
    """Return options in which a regular expression or 'all-linear' is no list of one word."""
    names = {
        name: value[0]
        for name in ("target_modules", "exclude_modules")
        if isinstance(value := options.get(name), list)
        and len(value) == 1
        and (value[0] == "all-linear" or not value[0].replace("_", "").replace(".", "").isalnum())
    }
    return {**options, **names}


def matrix_shapes(model: PreTrainedModel, config: PeftConfig) -> Iterator[tuple[int, int]]:
    """Yield (d_in, d_out) of every linear layer that a config chooses, heads left out."""
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear | Conv1D) or set(name.split(".")) & set(HEADS):
            continue
        if config.target_modules == "all-linear" or check_target_module_exists(config, name):
            d_out, d_in = module.weight.shape
            yield (d_out, d_in) if isinstance(module, Conv1D) else (d_in, d_out)
