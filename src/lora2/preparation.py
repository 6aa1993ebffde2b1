"""The factor A of all layers at once, ahead of a training forward pass.

What a layer does for itself takes some twenty operations on k × k matrices at every call. Here they
are one batched computation per shape and forward pass, cast once to the dtype in which the layers
take their products; each layer finds its own part ready. B is 𝒱ᵀ as it is stored.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from lora2.layers.base import AdapterSettings, Lora2Layer, in_full_precision
from lora2.layers.prepared import PreparedFactor
from lora2.mathematics.factors import right_factor

# What layers must share to be computed as one batch, and the dtype of their products.
_Group = tuple[tuple[int, ...], AdapterSettings, torch.device, torch.dtype, torch.dtype]
_Member = tuple[Lora2Layer, dict[str, nn.Parameter]]


def prepare_factors(layers: Iterable[Lora2Layer], adapter_name: str) -> None:
    """Compute A of one adapter for all the given layers that can be batched."""
    groups: dict[_Group, list[_Member]] = {}
    for layer in layers:
        if layer.has_adapter(adapter_name):
            parameters = layer.parameters_of(adapter_name)
            # B needs no preparing.
            parameters.pop("V")
            if all(map(_is_whole, parameters.values())):
                group = _group_of(layer, parameters, layer.lora2_settings[adapter_name])
                groups.setdefault(group, []).append((layer, parameters))
    for (_, settings, device, _, product_dtype), members in groups.items():
        if len(members) > 1:
            with torch.autocast(device.type, enabled=False):
                _prepare_group(members, adapter_name, settings, product_dtype)


def _prepare_group(
    members: list[_Member], adapter_name: str, settings: AdapterSettings, dtype: torch.dtype
) -> None:
    stacked = {
        symbol: in_full_precision(torch.stack([parameters[symbol] for _, parameters in members]))
        for symbol in members[0][1]
    }
    A = right_factor(**stacked, scaling=settings.scaling, orthonormalize=settings.orthonormalize)
    for (layer, parameters), own in zip(members, A.to(dtype).unbind(), strict=True):
        layer.lora2_prepared[adapter_name] = PreparedFactor(own, parameters)


def _group_of(
    layer: Lora2Layer, parameters: dict[str, nn.Parameter], settings: AdapterSettings
) -> _Group:
    v, lam = parameters["v"], parameters["lam"]
    device = v.device
    base: Any = layer.get_base_layer()
    product_dtype = base.weight.dtype
    if product_dtype != torch.float64 and torch.is_autocast_enabled(device.type):
        product_dtype = torch.get_autocast_dtype(device.type)
    return (*v.shape, *lam.shape), settings, device, v.dtype, product_dtype


def _is_whole(parameter: nn.Parameter) -> bool:
    """Whether a factor is here and plain: not sharded, offloaded or of another kind."""
    return type(parameter) is nn.Parameter and not parameter.is_meta and parameter.numel() > 0
