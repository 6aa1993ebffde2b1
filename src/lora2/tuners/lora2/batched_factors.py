"""The factors of all layers at once, ahead of a training forward pass.

What a layer does for itself takes some twenty small operations at every call, and where the
activations are few or a GPU computes them, starting an operation costs more than its arithmetic.
Here they are a few batched ones per forward pass; each layer finds its own part ready.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lora2.mathematics.factors import core
from lora2.mathematics.precision import in_full_precision
from lora2.mathematics.stacks import stacks
from lora2.tuners.lora2.layer import AdapterSettings, Lora2Layer
from lora2.tuners.lora2.prepared import PreparedFactors

# What layers must share to be computed as one batch: k and r, and all else that a core depends on.
_Group = tuple[type[Lora2Layer], torch.Size, AdapterSettings, torch.device, torch.dtype]
_Member = tuple[Lora2Layer, dict[str, nn.Parameter]]

_HALF_PRECISION = (torch.float16, torch.bfloat16)


def prepare_factors(layers: Iterable[Lora2Layer], adapter_name: str) -> None:
    """Compute the factors of one adapter for all the given layers that can be batched."""
    groups: dict[_Group, list[_Member]] = {}
    for layer in layers:
        if layer.has_adapter(adapter_name):
            parameters = layer.parameters_of(adapter_name)
            if all(map(_is_whole, parameters.values())):
                u, settings = parameters["u"], layer.lora2_settings[adapter_name]
                group = type(layer), u.shape, settings, u.device, u.dtype
                groups.setdefault(group, []).append((layer, parameters))
    for (_, _, settings, device, _), members in groups.items():
        if len(members) > 1:
            dtype = _computing_dtype(members[0][0])
            with torch.autocast(device.type, enabled=False):
                _prepare_group(members, adapter_name, settings, dtype)


def _prepare_group(
    members: list[_Member], adapter_name: str, settings: AdapterSettings, dtype: torch.dtype
) -> None:
    # Layers of one width side by side, so that cores and stacks have one order.
    members.sort(key=lambda member: member[1]["v"].shape[1])
    by_symbol: dict[str, list[Tensor]] = {
        symbol: [parameters[symbol] for _, parameters in members]
        for symbol in ("v", "u", "lam", "U", "V")
    }
    vts = [in_full_precision(stack) for _, stack in stacks(by_symbol["v"])]
    u, lam, U = (in_full_precision(torch.stack(by_symbol[symbol])) for symbol in ("u", "lam", "U"))
    gram = torch.cat([vt @ vt.mT for vt in vts]) if settings.orthonormalize else None
    cores = core(u, lam, U, gram=gram, scaling=settings.scaling).split([len(vt) for vt in vts])
    first = [A for vt, C in zip(vts, cores, strict=True) for A in _cast(C.mT @ vt, dtype).unbind()]
    second = _all_cast(by_symbol["V"], dtype)
    for (layer, parameters), A, V in zip(members, first, second, strict=True):
        layer.lora2_prepared[adapter_name] = PreparedFactors(A, V, parameters)


def _all_cast(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Return the tensors in another dtype, cast as stacks; those that have it are left alone."""
    cast = list(tensors)
    if _cast(tensors[0], dtype) is not tensors[0]:
        for positions, stack in stacks(tensors):
            for position, tensor in zip(positions, _cast(stack, dtype).unbind(), strict=True):
                cast[position] = tensor
    return cast


def _computing_dtype(layer: Lora2Layer) -> torch.dtype:
    """The dtype in which the layer will most likely multiply; it casts for itself if not."""
    weight: Any = layer.weight
    return layer.activation_dtype(weight)


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if dtype in _HALF_PRECISION else tensor


def _is_whole(parameter: nn.Parameter) -> bool:
    """Whether a factor is here and plain: not sharded, offloaded or of another kind."""
    return type(parameter) is nn.Parameter and not parameter.is_meta and parameter.numel() > 0
