"""An adapter as a plain LoRA: Δ = B A is one of rank k, so nothing is approximated.

Two forms. Padded: one rank for all modules, padded with zeros, no patterns; every
engine and every version of it reads that. Compact: each module at its own rank, modules that
change nothing left out; for PEFT and for engines that know rank patterns.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from lora2.errors import UserError
from lora2.exchange.expert_form import stacked_lora, wrapper_name
from lora2.exchange.lora_units import check_none_is_in_a_module_of_parameters, units_of
from lora2.exchange.own_factors import own_factors
from lora2.mathematics.low_rank import of_rank
from lora2.tuners.base.config.expert_targets import means_parameters
from lora2.tuners.base.config.patterns import pattern_for
from lora2.tuners.base.config.targets import is_named
from lora2.tuners.base.finite_checks import check_factors
from lora2.tuners.base.layers.adapted_layer import AdaptedLayer
from lora2.tuners.base.layers.finding import adapted_layers
from lora2.tuners.base.modules_to_save import modules_trained_whole
from lora2.tuners.base.names.adapter_names import check_is_text
from lora2.tuners.base.names.compiled_names import check_has_own_names
from lora2.tuners.base.names.peft_names import PREFIX, ROWS_TENSOR
from lora2.tuners.base.token_rows.finding import rows_of, trained_rows

# PEFT's wrapper has the embedding there.
_INSIDE_ROWS = ".token_adapter.base_layer"


@dataclass(frozen=True)
class LoraForm:
    """A LoRA that computes what an adapter does.

    Attributes:
        config: its PEFT config; lora_alpha is the rank, so that the scaling is 1 everywhere.
        tensors: its tensors by their names in a PEFT file, modules_to_save and rows of
            tokens included.
        ranks: the rank of the change by name of the layer, before any padding.
        left_out: names of the layers that a compact form has nothing of.
    """

    config: LoraConfig
    tensors: dict[str, Tensor]
    ranks: dict[str, int]
    left_out: frozenset[str]


@torch.no_grad()
def lora_form(
    model: PeftModel,
    adapter_name: str = "default",
    *,
    compact: bool = False,
    dtype: torch.dtype = torch.float32,
) -> LoraForm:
    """Return the adapter as a LoRA, in `dtype`.

    Raises:
        NumericalError: NaN or infinity in the adapter.
        UserError: no such adapter, a layer whose change PEFT's LoRA cannot express, or a compact
            form of an adapter that changes nothing.
    """
    config = _config_of(model, adapter_name)
    base = model.get_base_model()
    layers = adapted_layers(base, adapter_name)
    check_none_is_in_a_module_of_parameters(layers, "export the merged model instead")
    check_factors(base, adapter_name, f"adapter {adapter_name!r}")
    factors = {name: own_factors(layer, adapter_name) for name, layer in layers.items()}
    ranks = {name: len(A) for name, (_, A) in factors.items()}
    units = units_of(layers)
    sizes = _own_ranks(layers, ranks, units) if compact else _one_rank(layers, ranks, units)
    if not sizes:
        raise UserError(
            f"compact: adapter {adapter_name!r} changes nothing, and a LoRA without modules cannot "
            "be loaded; export it without compact."
        )
    tensors: dict[str, Tensor] = {}
    for unit, size in sizes.items():
        pairs = {
            name: of_rank(B.double(), A.double(), size // layers[name].lora_groups())
            for name, (B, A) in ((name, factors[name]) for name in units[unit])
        }
        if unit in layers:
            parts = {name: layers[name].as_lora(*pair) for name, pair in pairs.items()}
        else:
            parts = {wrapper_name(unit, base, sizes): stacked_lora(list(pairs.values()))}
        tensors |= _by_names_in_file(parts, dtype)
    tensors |= whole_modules(model, adapter_name)
    left_out = frozenset(name for unit in units.keys() - sizes for name in units[unit])
    return LoraForm(_lora_config(config, sizes, layers, model), tensors, ranks, left_out)


def _by_names_in_file(
    parts: Mapping[str, Mapping[str, Tensor]], dtype: torch.dtype
) -> dict[str, Tensor]:
    """Return the tensors of modules on the CPU, by their names in a PEFT file."""
    return {
        f"{PREFIX}{module}.{key}": tensor.to("cpu", dtype).contiguous()
        for module, own in parts.items()
        for key, tensor in own.items()
    }


def _lora_config(
    config: Any, sizes: dict[str, int], layers: Mapping[str, AdaptedLayer], model: PeftModel
) -> LoraConfig:
    """Return the config of the LoRA of an adapter that has this config.

    sizes: the rank of each unit.
    """
    modules, parameters = _as_peft_finds_them(sizes, layers, model)
    by_target = {_target_name(unit, parameters): size for unit, size in sizes.items()}
    usual = Counter(sizes.values()).most_common(1)[0][0]
    pattern = pattern_for(by_target, {}, usual)
    return LoraConfig(
        r=usual,
        lora_alpha=usual,
        rank_pattern=dict(pattern),
        alpha_pattern=dict(pattern),
        target_modules=modules,
        target_parameters=shortest_names(parameters, _parameter_names(model)) or None,
        modules_to_save=config.modules_to_save,
        trainable_token_indices=config.trainable_token_indices,
        task_type=config.task_type,
        base_model_name_or_path=config.base_model_name_or_path,
        revision=config.revision,
        # PEFT would find out by itself, and warn.
        fan_in_fan_out=any(layer.stores_transposed for layer in layers.values()),
        inference_mode=True,
    )


def _config_of(model: PeftModel, adapter_name: str) -> Any:
    check_is_peft_model(model)
    check_is_text(adapter_name)
    configs = getattr(model, "peft_config", {})
    if adapter_name not in configs:
        raise UserError(
            f"adapter_name={adapter_name!r} does not exist in this model: choose from "
            f"{list(configs)}."
        )
    layers = adapted_layers(model, adapter_name)
    is_given_up = not any(isinstance(module, BaseTunerLayer) for module in model.modules())
    if not layers and is_given_up and not configs[adapter_name].is_prompt_learning:
        raise UserError(
            "model: it has no adapted layers any longer, because the adapter was merged into the "
            "weights and removed, as export_merged and merge_and_unload do; export it before, or "
            "load the base model and the adapter again."
        )
    if not layers:
        raise UserError(
            f"adapter {adapter_name!r} is of {configs[adapter_name].peft_type}, which has no form "
            "as a LoRA; export an adapter of LoRA² or SoRA."
        )
    return configs[adapter_name]


def check_is_peft_model(model: object) -> None:
    """Check that a model to be exported is a PeftModel, whose modules have their own names.

    Raises:
        UserError: it is not; the sentence names those inside it.
    """
    if isinstance(model, PeftModel):
        check_has_own_names(model)
        return
    inside = []
    if isinstance(model, nn.Module):
        inside = [n for n, module in model.named_modules() if isinstance(module, PeftModel)]
    advice = "load the adapter with PeftModel.from_pretrained(base_model, folder) to export it."
    if inside:
        advice = f"pass the one inside it, {' or '.join(f'model.{name}' for name in inside)}."
    raise UserError(f"model: a {type(model).__name__} is no PeftModel; {advice}")


def _one_rank(
    layers: dict[str, AdaptedLayer], ranks: dict[str, int], units: dict[str, list[str]]
) -> dict[str, int]:
    """The largest rank for all; of grouped convolutions, the next that their groups divide."""
    groups = math.lcm(*(layer.lora_groups() for layer in layers.values()))
    largest = max(1, *(_lora_rank(layers[name], ranks[name]) for name in layers))
    return dict.fromkeys(units, math.ceil(largest / groups) * groups)


def _own_ranks(
    layers: dict[str, AdaptedLayer], ranks: dict[str, int], units: dict[str, list[str]]
) -> dict[str, int]:
    """The rank of each unit that changes something; PEFT's LoRA has one for all in it."""
    largest = {
        unit: max(_lora_rank(layers[name], ranks[name]) for name in names)
        for unit, names in units.items()
    }
    return {unit: size for unit, size in largest.items() if size}


def _lora_rank(layer: AdaptedLayer, size: int) -> int:
    return size * layer.lora_groups()


def whole_modules(model: PeftModel, adapter_name: str) -> dict[str, Tensor]:
    """What the adapter trains and saves as it is, by PEFT's names: modules, and rows of tokens."""
    base = model.get_base_model()
    rows = {
        f"{PREFIX}{name}.{ROWS_TENSOR}": rows_of(wrapper, adapter_name)
        .detach()
        .to("cpu", copy=True)
        for name, wrapper in trained_rows(base, adapter_name)
    }
    return rows | {
        f"{PREFIX}{name}.{key}": tensor.detach().to("cpu", copy=True)
        for name, wrapper in modules_trained_whole(base)
        for key, tensor in wrapper.adapter_state_dict(adapter_name, wrapper.state_dict()).items()
    }


def _as_peft_finds_them(
    units: Iterable[str], layers: Mapping[str, AdaptedLayer], model: PeftModel
) -> tuple[list[str], set[str]]:
    """Return target modules, and full names of target parameters, by which PEFT finds the units.

    Of a mixture of experts PEFT takes some names of modules for parameters of the experts, and
    leaves out dense layers that have them; these it finds by their weights, which are parameters.
    """
    modules = {unit for unit in units if unit in layers}
    base, names = model.get_base_model(), _module_names(model)
    targets = shortest_names(modules, names)
    plain = [target for target in targets if not means_parameters(target, base)]
    found = {name for target in plain for name in _chosen_by(target, names)}
    weights = {f"{name}.weight" for name in modules - found}
    return plain, {unit for unit in units if unit not in layers} | weights


def _target_name(unit: str, parameters: set[str]) -> str:
    """Return what PEFT matches patterns of ranks against."""
    weight = f"{unit}.weight"
    return weight if weight in parameters else unit


def _parameter_names(model: PeftModel) -> set[str]:
    """The names that the parameters have in the base model alone."""
    return {
        name.replace(_INSIDE_ROWS, "").replace(".base_layer", "")
        for name, _ in model.get_base_model().named_parameters()
    }


def _module_names(model: PeftModel) -> set[str]:
    """The names that the modules have in the base model alone."""
    return {
        name.replace(".original_module", "").replace(_INSIDE_ROWS, "")
        for name, _ in model.get_base_model().named_modules()
    }


def shortest_names(chosen: set[str], names: set[str]) -> list[str]:
    """Return the fewest last parts of names that, as target modules, choose just these.

    PEFT takes a module whose name is a given one or ends in "." and that.
    """
    result = set()
    for name in chosen:
        parts = name.split(".")
        endings = (".".join(parts[-length:]) for length in range(1, len(parts) + 1))
        result.add(next((e for e in endings if _chosen_by(e, names) <= chosen), name))
    return sorted(result)


def _chosen_by(ending: str, names: set[str]) -> set[str]:
    return {name for name in names if is_named(name, [ending])}
