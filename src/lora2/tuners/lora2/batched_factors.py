"""The factors of all layers at once, before each forward pass of the model.

What a layer computes for itself takes some twenty small operations at every call. Where the
activations are few or a GPU computes them, starting an operation costs more than its arithmetic.
Here they are a few batched ones per forward pass, and each layer finds its own part prepared.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lora2.mathematics.factors import core
from lora2.mathematics.precision import in_full_precision
from lora2.mathematics.stacks import stacks
from lora2.tuners.lora2.factors import FACTORS, INNER
from lora2.tuners.lora2.layer import AdapterSettings, Lora2Layer
from lora2.tuners.lora2.prepared import HandOut, PreparedFactors, PrivateGraph

# What layers must share to be computed as one batch: k and r, and all else that a core depends on.
_Group = tuple[type[Lora2Layer], torch.Size, AdapterSettings, torch.device, torch.dtype]
_Member = tuple[Lora2Layer, dict[str, nn.Parameter]]

_HALF_PRECISION = (torch.float16, torch.bfloat16)


def prepare_factors(layers: Iterable[Lora2Layer], adapter_name: str) -> None:
    """Compute the factors of one adapter for all the given layers that can be batched."""
    groups: dict[_Group, list[_Member]] = {}
    for layer in layers:
        if layer.has_adapter(adapter_name):
            # The last pass's factors go first, so that both are never in memory at once.
            layer.lora2_prepared.pop(adapter_name, None)
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
    # Layers of one width follow each other, so that cores and stacks have one order.
    members.sort(key=lambda member: member[1]["v"].shape[1])
    with_gradients = torch.is_grad_enabled()
    # A backward pass may come after a later forward pass without gradients, as the reference of
    # DPO; what checkpointing then computes again must have a graph.
    with torch.enable_grad():
        by_symbol = {
            symbol: [parameters[symbol] for _, parameters in members] for symbol in FACTORS
        }
        casts = _cast(by_symbol["V"][0], dtype) is not by_symbol["V"][0]
        symbols = [symbol for symbol in FACTORS if casts or symbol != "V"]
        parameters = [parameter for symbol in symbols for parameter in by_symbol[symbol]]
        leaves = [each.detach().requires_grad_(each.requires_grad) for each in parameters]
        copies = dict(zip(symbols, _split(leaves, len(members)), strict=True))
        results = _thin_factors(copies, settings, dtype)
        if casts:
            results += _all_cast(copies["V"], dtype)
        handed: Sequence[Tensor] = HandOut.apply(PrivateGraph(leaves, results), *parameters)
    As = handed[: len(members)]
    # Without a cast it is the parameter itself, whose gradient needs no detour.
    Vs = handed[len(members) :] if casts else by_symbol["V"]
    for (layer, own), A, V in zip(members, As, Vs, strict=True):
        layer.lora2_prepared[adapter_name] = PreparedFactors(A, V, own, with_gradients)


def _thin_factors(
    by_symbol: dict[str, list[Tensor]], settings: AdapterSettings, dtype: torch.dtype
) -> list[Tensor]:
    """Return A [k, d_in] of each layer, from stacks of layers that share k, r and d_in."""
    vts = [in_full_precision(stack) for _, stack in stacks(by_symbol["v"])]
    u, lam, U = (in_full_precision(torch.stack(by_symbol[symbol])) for symbol in INNER)
    gram = torch.cat([vt @ vt.mT for vt in vts]) if settings.orthonormalize else None
    cores = core(u, lam, U, gram=gram, scaling=settings.scaling).split([len(vt) for vt in vts])
    return [A for vt, C in zip(vts, cores, strict=True) for A in _cast(C.mT @ vt, dtype).unbind()]


def _split(tensors: list[Tensor], length: int) -> list[list[Tensor]]:
    return [tensors[start : start + length] for start in range(0, len(tensors), length)]


def _all_cast(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Return the tensors in another dtype, cast as stacks."""
    cast = list(tensors)
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
