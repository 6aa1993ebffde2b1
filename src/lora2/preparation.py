"""The factors of all layers at once, ahead of a training forward pass.

What a layer does for itself takes some twenty operations on k × k matrices at every call. Here they
are one batched computation per shape of matrix and forward pass, cast once to the dtype in which
the layers take their products; each layer finds its own part ready.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from lora2.layers.base import AdapterSettings, Lora2Layer
from lora2.layers.prepared import PreparedFactors
from lora2.mathematics.factors import factors

# What layers must share to be computed as one batch, and the dtype of their products.
_Group = tuple[tuple[int, ...], AdapterSettings, torch.device, torch.dtype, torch.dtype]


def prepare_factors(layers: Iterable[Lora2Layer], adapter_name: str) -> None:
    """Compute B and A of one adapter for all the given layers that can be batched."""
    groups: dict[_Group, list[Lora2Layer]] = {}
    for layer in layers:
        if layer.has_adapter(adapter_name) and _is_whole(layer, adapter_name):
            groups.setdefault(_group_of(layer, adapter_name), []).append(layer)
    for (_, settings, device, _, product_dtype), members in groups.items():
        if len(members) > 1:
            with torch.autocast(device.type, enabled=False):
                _prepare_group(members, adapter_name, settings, product_dtype)


def _prepare_group(
    layers: list[Lora2Layer], adapter_name: str, settings: AdapterSettings, dtype: torch.dtype
) -> None:
    stored = [layer.stored_factors(adapter_name) for layer in layers]
    B, A = factors(
        **{symbol: torch.stack([own[symbol] for own in stored]) for symbol in stored[0]},
        scaling=settings.scaling,
        orthonormalize=settings.orthonormalize,
    )
    # Transposed before unbinding, so that each layer gets both with their long side contiguous.
    left, right = B.mT.to(dtype).unbind(), A.contiguous().to(dtype).unbind()
    for position, layer in enumerate(layers):
        layer.lora2_prepared[adapter_name] = PreparedFactors(
            left[position].mT, right[position], layer.parameters_of(adapter_name).values()
        )


def _group_of(layer: Lora2Layer, adapter_name: str) -> _Group:
    parameters = layer.parameters_of(adapter_name)
    v, lam, V = parameters["v"], parameters["lam"], parameters["V"]
    device = v.device
    product_dtype = layer.weight.dtype
    if torch.is_autocast_enabled(device.type) and product_dtype != torch.float64:
        product_dtype = torch.get_autocast_dtype(device.type)
    shape = (*v.shape, *lam.shape, V.shape[1])
    return shape, layer.lora2_settings[adapter_name], device, v.dtype, product_dtype


def _is_whole(layer: Lora2Layer, adapter_name: str) -> bool:
    """Whether the factors are here and plain: not sharded, offloaded or of another kind."""
    return all(
        type(parameter) is nn.Parameter and not parameter.is_meta
        for parameter in layer.parameters_of(adapter_name).values()
    ) and bool(layer.parameters_of(adapter_name)["v"].numel())
