"""Layers that were frozen because nothing is left in them: who decides whether they train again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from lora2.tuners.lora2.stored_factors import StoredFactors


def stay_frozen_with_others(layers: Iterable[StoredFactors], adapter_name: str) -> None:
    """Let empty layers stay frozen once they are filled, if their adapter is frozen elsewhere.

    `requires_grad_(False)` of a whole model is not seen by a layer whose tensors are frozen before.

    layers: all that carry the adapter.
    """
    layers = list(layers)
    filled = [layer for layer in layers if layer.has_effect(adapter_name)]
    if not filled or any(_has_gradients(layer, adapter_name) for layer in filled):
        return
    for layer in layers:
        layer.lora2_states[adapter_name].was_frozen_empty = False


def before_loading(model: nn.Module, *args: Any) -> None:
    """Let empty layers of frozen adapters stay frozen in a module that is about to load weights.

    It is a hook of torch: before `load_state_dict`.
    """
    layers = [module for module in model.modules() if isinstance(module, StoredFactors)]
    for adapter_name in {name for layer in layers for name in layer.lora2_states}:
        holders = [layer for layer in layers if layer.has_adapter(adapter_name)]
        stay_frozen_with_others(holders, adapter_name)


def _has_gradients(layer: StoredFactors, adapter_name: str) -> bool:
    return any(each.requires_grad for each in layer.parameters_of(adapter_name).values())
