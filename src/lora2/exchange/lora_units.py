"""Groups the layers that share one LoRA: a target module and what is in it, or all experts."""

from __future__ import annotations

from collections.abc import Iterable

from lora2.tuners.base.layers.experts import parameter_of


def units_of(layers: Iterable[str]) -> dict[str, list[str]]:
    """Return the names of the layers of each unit, by its name: a target module, or a parameter."""
    units: dict[str, list[str]] = {}
    for name in layers:
        units.setdefault(parameter_of(name) or target_of(name), []).append(name)
    return units


def target_of(name: str) -> str:
    """Return the target module of a layer, which may be inside of it: attn.base_layer.out_proj."""
    return name.partition(".base_layer.")[0]
