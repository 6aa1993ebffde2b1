"""Checks that the names of modules in the options are names of the model's modules."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from peft import LoraConfig
from torch import nn
from transformers import PreTrainedModel

from lora2.errors import UserError
from lora2.training.methods.adapted_parts import (
    ALL_LAYER_KINDS,
    adapted_modules,
    adapted_parameters,
    expert_names,
)
from lora2.training.methods.method import Method, Options
from lora2.training.methods.peft_options import OPTION
from lora2.training.methods.wrapping import place
from lora2.tuners.base.config.expert_targets import means_parameters
from lora2.tuners.base.config.patterns import unmatched
from lora2.tuners.base.config.target_config import TargetConfig
from lora2.tuners.base.config.targets import is_named
from lora2.tuners.lora2.config import Lora2Config

_Kinds = tuple[type[nn.Module], ...]


def check_named_modules(model: PreTrainedModel, method: Method, options: Options) -> None:
    """Check that every name, pattern and index chooses a module of the model.

    Raises:
        UserError: one of them chooses none, and would do nothing.
    """
    # An adapter to continue from brings its modules.
    if options.get("start_from") is not None:
        return
    options = method.resolve(options)
    if "modules_to_save" in method.options:
        names = [name for name, _ in model.named_modules()]
        for name in options.get("modules_to_save") or ():
            if not name or not any(each.endswith(name) for each in names):
                raise _chooses_nothing("modules_to_save", name, model)
    if "target_modules" in method.options:
        kinds = (nn.Module,) if method.from_peft else ALL_LAYER_KINDS
        fields = place(model, options)
        if method.from_peft and not options.get("target_modules"):
            # PEFT alone knows its defaults, which are among these.
            fields["target_modules"] = _inner_names(model)
        # It raises for fields that contradict each other, in better words than PEFT's.
        TargetConfig(**fields)
        _check_place(model, options, fields, kinds)
    parameters: dict[str, tuple[int, ...]] = {}
    if method.from_peft:
        _check_peft_config(model, options.get(OPTION) or {})
    if "target_parameters" in method.options:
        parameters = _checked_parameters(model, options)
    for pattern in ("k_pattern", "rank_pattern", "alpha_pattern"):
        if pattern in method.options:
            _check_pattern(model, options, pattern, parameters)


def _inner_names(model: PreTrainedModel) -> set[str]:
    """Return the last parts of the names of modules within others."""
    outer = {name for name, _ in model.named_children()}
    return {name.rpartition(".")[2] for name, _ in model.named_modules() if "." in name} - outer


def _check_place(
    model: PreTrainedModel, options: Options, fields: dict[str, Any], kinds: _Kinds
) -> None:
    # Without defaults, PEFT's own sentence says that names are needed.
    if fields["target_modules"] is None:
        return
    everything = fields | {"exclude_modules": None}
    for value in _each(options.get("layers_pattern")):
        if not any(
            re.match(rf"(?:^|.*?\.){value}\.\d+\.", name) for name, _ in model.named_modules()
        ):
            raise _chooses_nothing("layers_pattern", value, model)
    for name in ("target_modules", "layers_to_transform"):
        for value in _each(options.get(name)):
            alone = fields[name] if isinstance(fields[name], str) else [value]
            if name == "target_modules" and means_parameters(value, model):
                continue
            if not _adapted(model, options, everything | {name: alone}, kinds):
                raise _chooses_nothing(name, value, model)
    for value in _each(options.get("exclude_modules")):
        alone = value if isinstance(fields["exclude_modules"], str) else [value]
        one_out = everything | {"exclude_modules": alone}
        without = _adapted(model, options, one_out, kinds)
        if without == _adapted(model, options, everything, kinds):
            raise UserError(
                f"exclude_modules={value} excludes no module of this model "
                f"({model.config.model_type}) that would be adapted; correct it, or leave it out."
            )


def _check_peft_config(model: PreTrainedModel, content: Mapping[str, Any]) -> None:
    """Check the names that only PEFT's config has, of which PEFT does not say all."""
    _check_parameters(model, content.get("target_parameters") or ())
    names = [name for name, _ in model.named_modules()]
    for field in ("block_size_pattern", "lambda_pattern", "n_frequency_pattern"):
        for key in unmatched(content.get(field) or (), names):
            raise _chooses_nothing(field, {key: content[field][key]}, model)


def _check_parameters(model: PreTrainedModel, names: Iterable[str]) -> None:
    for value in names:
        if not any(is_named(name, [value]) for name, _ in model.named_parameters()):
            raise UserError(
                f"target_parameters={value} chooses no parameter of this model "
                f"({model.config.model_type}); correct it, or leave it out."
            )


def _checked_parameters(model: PreTrainedModel, options: Options) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the parameters that are adapted, by name."""
    _check_parameters(model, options.get("target_parameters") or ())
    fields = {**place(model, options), "target_parameters": options.get("target_parameters")}
    return adapted_parameters(model, Lora2Config(**fields))


def _check_pattern(
    model: PreTrainedModel, options: Options, name: str, parameters: dict[str, tuple[int, ...]]
) -> None:
    fields = place(model, options)
    # As above, there are no defaults.
    modules = set() if fields["target_modules"] is None else _adapted(model, options, fields)
    adapted = modules | parameters.keys()
    for parameter, shape in parameters.items():
        adapted |= {*expert_names(parameter, shape)}
    for pattern in unmatched(options.get(name) or (), adapted):
        raise _chooses_nothing(name, {pattern: options[name][pattern]}, model)


def _adapted(
    model: PreTrainedModel,
    options: Options,
    fields: dict[str, Any],
    kinds: _Kinds = ALL_LAYER_KINDS,
) -> set[str]:
    """Return the names of the modules of these kinds that a config of these fields adapts."""
    config = LoraConfig(**fields, modules_to_save=options.get("modules_to_save"))
    return {*adapted_modules(model, config, kinds)}


def _each(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | set | tuple) else [value]


def _chooses_nothing(option: str, value: Any, model: PreTrainedModel) -> UserError:
    return UserError(
        f"{option}={value} chooses no module of this model ({model.config.model_type}); "
        "correct it, or leave it out."
    )
