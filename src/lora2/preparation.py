"""The cores of all layers at once, ahead of a training forward pass.

What a layer does for itself takes some twenty operations on k × k matrices at every call. Here they
are one batched computation per forward pass; each layer finds its own part ready.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from lora2.layers.lora2_layer import AdapterSettings, Lora2Layer
from lora2.layers.prepared import PreparedCore
from lora2.mathematics.factors import core
from lora2.mathematics.gram import gram_matrices
from lora2.mathematics.precision import in_full_precision

# What layers must share to be computed as one batch: k and r, and all else that a core depends on.
_Group = tuple[torch.Size, AdapterSettings, torch.device, torch.dtype]
_Member = tuple[Lora2Layer, dict[str, nn.Parameter]]


def prepare_cores(layers: Iterable[Lora2Layer], adapter_name: str) -> None:
    """Compute the core of one adapter for all the given layers that can be batched."""
    groups: dict[_Group, list[_Member]] = {}
    for layer in layers:
        if layer.has_adapter(adapter_name):
            parameters = layer.parameters_of(adapter_name)
            # The core is all but 𝒱.
            parameters.pop("V")
            if all(map(_is_whole, parameters.values())):
                u, settings = parameters["u"], layer.lora2_settings[adapter_name]
                group = u.shape, settings, u.device, u.dtype
                groups.setdefault(group, []).append((layer, parameters))
    for (_, settings, device, _), members in groups.items():
        if len(members) > 1:
            with torch.autocast(device.type, enabled=False):
                _prepare_group(members, adapter_name, settings)


def _prepare_group(members: list[_Member], adapter_name: str, settings: AdapterSettings) -> None:
    stacked = {
        symbol: in_full_precision(torch.stack([parameters[symbol] for _, parameters in members]))
        for symbol in ("u", "lam", "U")
    }
    gram = None
    if settings.orthonormalize:
        gram = gram_matrices([parameters["v"] for _, parameters in members])
    cores = core(**stacked, gram=gram, scaling=settings.scaling).unbind()
    for (layer, parameters), own in zip(members, cores, strict=True):
        layer.lora2_prepared[adapter_name] = PreparedCore(own, parameters)


def _is_whole(parameter: nn.Parameter) -> bool:
    """Whether a factor is here and plain: not sharded, offloaded or of another kind."""
    return type(parameter) is nn.Parameter and not parameter.is_meta and parameter.numel() > 0
