"""Which adapters and factors take part in a forward pass, and which are trained in it."""

from __future__ import annotations

from typing import Any

from torch import nn

from lora2.tuners.lora2.config import Lora2Config
from lora2.tuners.lora2.layer import Lora2Layer


def active_among(layers: list[Lora2Layer]) -> list[str]:
    """Return the names of the adapters that take part in a forward pass."""
    for layer in layers:
        if not layer.disable_adapters and not layer.merged:
            return list(layer.active_adapters)
    return []


def trained_among(layers: list[Lora2Layer], model: nn.Module) -> list[tuple[str, Lora2Config]]:
    """Return the adapters that a forward pass of a base model trains, with their configs."""
    configs: dict[str, Any] = getattr(model, "peft_config", {})
    return [
        (name, config)
        for name, config in configs.items()
        if isinstance(config, Lora2Config) and _is_trained_in_any(layers, name)
    ]


def trained_parameters(layers: list[Lora2Layer]) -> list[nn.Parameter]:
    """Return the factors that are trained, of all adapters."""
    return [
        parameter
        for layer in layers
        for adapter_name in layer.lora2_states
        for parameter in layer.parameters_of(adapter_name).values()
        if parameter.requires_grad
    ]


def _is_trained_in_any(layers: list[Lora2Layer], adapter_name: str) -> bool:
    # torch 2.8 compiles no generator here.
    for layer in layers:  # noqa: SIM110
        if trains_in_pass(layer, adapter_name):
            return True
    return False


def trains_in_pass(layer: Lora2Layer, adapter_name: str) -> bool:
    """Whether a forward pass trains the adapter in this layer, which has something left of it."""
    return layer.has_effect(adapter_name) and layer.trains(adapter_name)
