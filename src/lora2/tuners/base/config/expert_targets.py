"""Which parameters of experts a config chooses, by the names that PEFT's LoRA takes for them."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Collection, Iterator
from typing import Any

from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.constants import INCLUDE_LINEAR_LAYERS_SHORTHAND as ALL_LINEAR
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from torch import nn

from lora2.errors import UserError
from lora2.support.error_text import one_line
from lora2.tuners.base.config.targets import is_named


def choose_parameters(config: Any, model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> None:
    """Add the parameters to a config's target_parameters that its target_modules names.

    Experts were linear layers before transformers 5: w1, w2, w3 of Mixtral, gate_proj, up_proj and
    down_proj of others, and the router's gate. PEFT's LoRA takes these names, and 'all-linear', for
    the parameters that they have become. Here dense layers of the same name are adapted, too.

    kinds: of modules that can be adapted.

    Raises:
        UserError: one of two matrices that have become one parameter is named without the other.
    """
    targets = config.target_modules
    if targets is None or config.target_parameters is not None:
        return
    lora = LoraConfig(target_modules=copy.copy(targets))
    try:
        convert_peft_config_for_transformers(lora, model, None)
    except ValueError as error:
        raise UserError(f"target_modules: {one_line(error)}") from error
    if lora.target_parameters:
        config.target_parameters = sorted(lora.target_parameters)
    # PEFT's LoRA leaves out those that have become parameters.
    gone = set() if isinstance(targets, str) else set(targets) - set(lora.target_modules or ())
    if targets != ALL_LINEAR:
        config.target_modules = _that_name_modules(targets, gone, config, model, kinds)
    _warn_of_parameters_left_out(config, targets, model)


def means_parameters(target: str, model: nn.Module) -> bool:
    """Whether PEFT's LoRA takes a name in target_modules for parameters of experts."""
    lora = LoraConfig(target_modules=[target])
    try:
        convert_peft_config_for_transformers(lora, model, None)
    except ValueError:
        # It is one of several matrices that have become one parameter.
        return True
    return target not in (lora.target_modules or ())


def is_chosen(config: Any, parameter: str) -> bool:
    """Whether exclude_modules, modules_to_save and layers_to_transform leave a parameter in.

    PEFT's LoRA asks none of the three.
    """
    probe = copy.copy(config)
    # The end of the name, since PEFT asks no further where a whole name is given.
    probe.target_modules = {parameter.rpartition(".")[-1]}
    return bool(check_target_module_exists(probe, parameter))


def names_parameter(config: Any, parameter: str) -> bool:
    """Whether target_parameters has this parameter, of a full name, as PEFT matches it."""
    return is_named(parameter, config.target_parameters or ())


def warn_of_unknown_parameters(config: Any, model: nn.Module) -> None:
    """Warn of entries of target_parameters that no parameter has, where other entries have some.

    Of all of them PEFT warns itself.
    """
    targets = config.target_parameters or ()
    names = [name.replace(".base_layer.", ".") for name, _ in model.named_parameters()]
    unknown = [each for each in targets if not any(is_named(name, [each]) for name in names)]
    if unknown and len(unknown) < len(targets):
        warnings.warn(
            # PEFT has a sentence of its own for it.
            f"target_parameters={unknown} were set but no parameter was matched.",
            RuntimeWarning,
            stacklevel=3,
        )


def _that_name_modules(
    targets: Collection[str] | str,
    gone: set[str],
    config: Any,
    model: nn.Module,
    kinds: tuple[type[nn.Module], ...],
) -> Any:
    """Return target modules without those that are parameters alone."""
    if not config.target_parameters:
        return targets
    adaptable = [name for name, module in model.named_modules() if isinstance(module, kinds)]
    if isinstance(targets, str):
        return targets if any(re.fullmatch(targets, name) for name in adaptable) else set()
    return {
        target
        for target in targets
        if target not in gone or any(is_named(name, [target]) for name in adaptable)
    }


def _warn_of_parameters_left_out(
    config: Any, targets: Collection[str] | str, model: nn.Module
) -> None:
    left = [name for name in _expert_parameters(model) if not names_parameter(config, name)]
    if targets != ALL_LINEAR:
        modules = [name for name, _ in model.named_modules()]
        named = set() if isinstance(targets, str) else set(targets)
        named = {target for target in named if not any(is_named(n, [target]) for n in modules)}
        left = [name for name in left if is_named(name, named)]
    if left:
        short = sorted({".".join(name.split(".")[-2:]) for name in left})
        shown = ALL_LINEAR if targets == ALL_LINEAR else sorted(named)
        warnings.warn(
            f"target_modules={shown!r} names modules, and the weights of experts of this model are "
            f"parameters, which stay as they are: write target_parameters={short} to adapt them, "
            "or target_parameters=[] not to.",
            UserWarning,
            stacklevel=2,
        )


def _expert_parameters(model: nn.Module) -> Iterator[str]:
    """Yield the full names of weights of experts, [experts, ., .], in modules of that name."""
    for module_name, module in model.named_modules():
        if "experts" in type(module).__name__.lower():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.dim() == 3:
                    yield f"{module_name}.{name}"
