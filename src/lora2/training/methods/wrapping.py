"""The parts that PEFT methods share: heads, target modules, and errors in one sentence."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from peft import get_peft_model
from peft.config import PeftConfig
from peft.utils.constants import INCLUDE_LINEAR_LAYERS_SHORTHAND as ALL_LINEAR
from peft.utils.error import NoMatchingPeftModuleError
from torch import nn
from transformers import PreTrainedModel

from lora2.errors import UserError
from lora2.support.error_text import one_line
from lora2.training.base_models.models import BaseModel
from lora2.training.methods.method import PLACE, Options
from lora2.training.methods.whole_modules import (
    HEADS,
    heads_of_task,
    is_trained_whole,
    keep_precise,
)
from lora2.tuners.base.config.targets import DEFAULT_TARGET_MODULES
from lora2.tuners.base.token_rows.checks import check_rows
from lora2.tuners.base.token_rows.wrappers import complete_wrappers


class ConfigRefusedError(UserError):
    """PEFT refuses a config on a model, for the reason that its cause says."""


def wrap(model: PreTrainedModel, config: PeftConfig) -> nn.Module:
    """Do what `get_peft_model` does, and say in one sentence what cannot be done.

    Raises:
        UserError: no module of those names in the model, or a config that does not suit it.
    """
    _leave_out_saved_modules(model, config)
    check_rows(model, config)
    keep_precise(model, config)
    try:
        adapted: nn.Module = get_peft_model(model, config)
        complete_wrappers(adapted)
        return adapted
    except UserError:
        raise
    except NoMatchingPeftModuleError as error:
        raise nothing_chosen(model, config) from error
    except (ValueError, TypeError) as error:
        if "specify `target_modules`" in str(error):
            raise UserError(
                f"target_modules: there is no default for {model.config.model_type}; write names "
                "of its linear layers, or all-linear."
            ) from error
        # PEFT raises a TypeError for a module that is to be adapted and trained whole.
        raise ConfigRefusedError(f"adapter: {one_line(error)}") from error


def nothing_chosen(model: PreTrainedModel, config: PeftConfig) -> UserError:
    """Return the error that a config chooses no module of a model."""
    targets = getattr(config, "target_modules", None)
    shown = targets if isinstance(targets, str) else ", ".join(sorted(targets or ()))
    return UserError(
        f"target_modules: no module of this model ({model.config.model_type}) is chosen by "
        f"{shown or 'the defaults'}, in view of exclude_modules and layers_to_transform; write "
        "names of its linear layers, or all-linear."
    )


def with_head(base: BaseModel, options: Options) -> dict[str, Any]:
    """Return the fields by which PEFT trains and saves the head, if any, with any adapter."""
    # In this order, each once; what lacks weights is needed whatever else is asked for.
    asked, needed = options.get("modules_to_save") or [], modules_without_weights(base.new_modules)
    # PEFT adds those of the tasks that it knows itself.
    others = [] if base.task_type is not None else _heads(base)
    saved = list(dict.fromkeys([*asked, *needed, *others]))
    return {"task_type": base.task_type, "modules_to_save": saved or None}


def head_names(base: BaseModel) -> tuple[str, ...]:
    """Return ends of the names of modules that every method trains.

    They are the task's head, as PEFT finds it, and what the pretrained model has no weights for.
    """
    return (*_heads(base), *base.new_modules)


def _heads(base: BaseModel) -> list[str]:
    if base.task_type is None:
        # PEFT has no name for the task, such as the classification of images.
        return [name for name, _ in base.model.named_children() if name in HEADS]
    return list(heads_of_task(base.task_type))


def wrap_with_head(base: BaseModel, adapter: PeftConfig, options: Options) -> nn.Module:
    """Put an adapter on a model, and train and save the head with it.

    Raises:
        UserError: as `wrap`.
    """
    for name, value in with_head(base, options).items():
        setattr(adapter, name, value)
    return wrap(base.model, adapter)


def built_with(
    config: Callable[[PreTrainedModel, Options], PeftConfig],
) -> Callable[[BaseModel, Options, int], nn.Module]:
    """Return the `build` of a method whose config does not depend on the optimizer steps.

    config: takes the pretrained model and options; returns the config without the head.
    """

    def build(base: BaseModel, options: Options, steps: int) -> nn.Module:
        return wrap_with_head(base, config(base.model, options), options)

    return build


def _leave_out_saved_modules(model: PreTrainedModel, adapter: Any) -> None:
    """Keep 'all-linear' away from modules that are trained whole: PEFT cannot do both to one."""
    excluded = getattr(adapter, "exclude_modules", None)
    if getattr(adapter, "target_modules", None) != ALL_LINEAR or isinstance(excluded, str):
        return
    whole = {name for name, _ in model.named_modules() if is_trained_whole(name, adapter)}
    adapter.exclude_modules = {*(excluded or ()), *whole} or None


def is_of_head(name: str) -> bool:
    """Whether a module or parameter of this name belongs to a classification head."""
    return not set(HEADS).isdisjoint(name.split("."))


def trained_outside_head(model: nn.Module) -> int:
    """Return how many numbers of a model are trained, its head left out."""
    return sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and not is_of_head(name)
    )


def wrapped_without_memory(model: PreTrainedModel, config: PeftConfig) -> nn.Module:
    """Return a copy on the meta device with PEFT's adapter, to count what it trains.

    Of convolutions and experts PEFT's factors have sizes and ranks of its own.

    Raises:
        UserError: as `wrap`.
    """
    with warnings.catch_warnings():
        # The same warnings come in a training, such as on ranks whose keys name no module.
        warnings.simplefilter("ignore")
        return wrap(copy.deepcopy(model).to("meta"), config)


def modules_without_weights(new_modules: Sequence[str]) -> list[str]:
    """Return the modules that must be trained whole, since the checkpoint lacks them.

    A pooler, for instance, that was never pretrained would stay random if it were frozen.
    """
    return [name for name in new_modules if not is_of_head(name)]


def place(
    model: PreTrainedModel,
    options: Options,
    defaults: Mapping[str, Sequence[str] | str] = DEFAULT_TARGET_MODULES,
) -> dict[str, Any]:
    """Return the fields that choose modules, with the architecture's default filled in."""
    chosen = one_word({name: options.get(name) for name in PLACE})
    if chosen["target_modules"] is None:
        default = defaults.get(model.config.model_type, ())
        chosen["target_modules"] = default if isinstance(default, str) else set(default) or None
    return chosen


def one_word(options: Options) -> dict[str, Any]:
    """Return options in which a regular expression or 'all-linear' is no list of one word."""
    names = {
        name: value[0]
        for name in ("target_modules", "exclude_modules")
        if isinstance(value := options.get(name), list)
        and len(value) == 1
        and (value[0] == ALL_LINEAR or not value[0].replace("_", "").replace(".", "").isalnum())
    }
    return {**options, **names}
