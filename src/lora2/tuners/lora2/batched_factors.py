"""The factors of all layers at once, before each forward pass of the model.

What a layer computes for itself takes some twenty small operations at every call. Where the
activations are few or a GPU computes them, starting an operation costs more than its arithmetic.
Here they are a few batched ones per forward pass, and each layer finds its own part prepared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from lora2.mathematics.factors import core
from lora2.mathematics.precision import HALF_PRECISION, in_full_precision, without_autocast
from lora2.mathematics.stacks import stacks
from lora2.tuners.lora2.factor_table import FACTORS
from lora2.tuners.lora2.layer import Lora2Layer
from lora2.tuners.lora2.prepared_factors import HandOut, PreparedFactors, PrivateGraph

# What layers must share to be computed as one batch: k and r, and all else that a core depends on.
_Group = tuple[type[Lora2Layer], torch.Size, bool, float, torch.device, torch.dtype]
_Member = tuple[Lora2Layer, dict[str, nn.Parameter]]


def prepare_factors(layers: Iterable[Lora2Layer], adapter_name: str) -> None:
    """Compute the factors of one adapter for all the given layers that can be batched."""
    groups: dict[_Group, list[_Member]] = {}
    for layer in layers:
        if layer.has_adapter(adapter_name):
            # The last pass's factors go first, so that both are never in memory at once.
            layer.lora2_prepared.pop(adapter_name, None)
            parameters = layer.parameters_of(adapter_name)
            if _are_whole(layer, adapter_name, parameters):
                u, scaling = parameters["u"], layer.scaling[adapter_name]
                orthonormalize = layer.lora2_states[adapter_name].orthonormalize
                group = type(layer), u.shape, orthonormalize, scaling, u.device, u.dtype
                groups.setdefault(group, []).append((layer, parameters))
    for (_, _, orthonormalize, scaling, device, _), members in groups.items():
        if len(members) > 1:
            dtype = _computing_dtype(members[0][0], device)
            with without_autocast(members[0][1]["v"]):
                _prepare_group(members, adapter_name, orthonormalize, scaling, dtype)


def _prepare_group(
    members: list[_Member],
    adapter_name: str,
    orthonormalize: bool,
    scaling: float,
    dtype: torch.dtype,
) -> None:
    # Layers of one width follow each other, so that all stacks of A's factors have one order.
    members.sort(key=lambda member: member[1]["v"].shape[1])
    with_gradients = torch.is_grad_enabled()
    held = {symbol: [own[symbol] for _, own in members] for symbol in FACTORS}
    v, V = held.pop("v"), held.pop("V")
    _, outer = _leaves(v)
    inner = {symbol: _leaves(each)[1][0] for symbol, each in held.items()}
    # Without a cast 𝒱 is handed out as it is, and its gradient needs no detour.
    casts = _cast(V[0], dtype) is not V[0]
    order, right = _leaves(V) if casts else ([], [])
    # A backward pass may come after a later forward pass without gradients, as the reference of
    # DPO; what checkpointing then computes again must have a graph.
    make = partial(_results, orthonormalize=orthonormalize, scaling=scaling, dtype=dtype)
    with torch.enable_grad():
        graph = PrivateGraph(
            [*outer, *inner.values(), *right],
            make(outer, inner, right),
            # v, u, λ and 𝒰 of a layer make its A, and 𝒱 its own cast.
            [
                *list(range(len(members))) * (1 + len(inner)),
                *range(len(members), len(members) + len(order)),
            ],
            partial(_results_of_parameters, symbols=tuple(held), layers=len(members), make=make),
        )
        handed = HandOut.apply(
            graph, *v, *chain.from_iterable(held.values()), *(V[position] for position in order)
        )
    cast = dict(zip(order, handed[len(members) :], strict=True))
    for position, (layer, own) in enumerate(members):
        layer.lora2_prepared[adapter_name] = PreparedFactors(
            handed[position], cast.get(position, V[position]), own, scaling, with_gradients
        )


@torch.no_grad()
def _leaves(parameters: list[nn.Parameter]) -> tuple[list[int], list[Tensor]]:
    """Return parameters as stacks by shape, for autograd leaves, and the order of their rows."""
    order: list[int] = []
    leaves: list[Tensor] = []
    for positions, stack in stacks(parameters):
        order += positions
        leaves.append(stack.requires_grad_(any(parameters[i].requires_grad for i in positions)))
    return order, leaves


def _results_of_parameters(
    parameters: Sequence[Tensor],
    *,
    symbols: Sequence[str],
    layers: int,
    make: Callable[..., list[Tensor]],
) -> list[Tensor]:
    """Return the results of parameters: vᵀ of all layers, the inner factors, and what 𝒱 are cast.

    Args:
        parameters: as `HandOut` has them.
        symbols: of the inner factors, in that order.
        layers: how many parameters of each symbol there are.
        make: computes results from stacks.
    """
    starts = range(layers, (1 + len(symbols)) * layers, layers)
    inner = {
        symbol: torch.stack(list(parameters[start : start + layers]))
        for symbol, start in zip(symbols, starts, strict=True)
    }
    outer, right = parameters[:layers], parameters[(1 + len(symbols)) * layers :]
    return make([stack for _, stack in stacks(outer)], inner, [s for _, s in stacks(right)])


def _results(
    vts: list[Tensor], inner: dict[str, Tensor], right: list[Tensor], **settings: Any
) -> list[Tensor]:
    """Return stacks of A, and of 𝒱 in the dtype of the layers' products."""
    firsts = _first_factors(vts, inner, **settings)
    return firsts + [_cast(stack, settings["dtype"]) for stack in right]


def _first_factors(
    vts: list[Tensor],
    inner: dict[str, Tensor],
    *,
    orthonormalize: bool,
    scaling: float,
    dtype: torch.dtype,
) -> list[Tensor]:
    """Return A [layers, k, d_in] for each stack of vᵀ [layers, k, d_in].

    inner: the stacks of the factors between v and 𝒱, by symbol.
    """
    vts = [in_full_precision(vt) for vt in vts]
    inner = {symbol: in_full_precision(stack) for symbol, stack in inner.items()}
    gram = torch.cat([vt @ vt.mT for vt in vts]) if orthonormalize else None
    cores = core(**inner, gram=gram, scaling=scaling).split([len(vt) for vt in vts])
    return [_cast(C.mT @ vt, dtype) for vt, C in zip(vts, cores, strict=True)]


def _computing_dtype(layer: Lora2Layer, device: torch.device) -> torch.dtype:
    """The dtype in which the layer will most likely multiply; it casts for itself if not."""
    weight: Any = layer.weight
    # An offloaded weight has a dtype here, and no values.
    like = weight.new_empty(0, device=device) if weight.is_meta else weight
    return layer.activation_dtype(like)


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if dtype in HALF_PRECISION else tensor


def _are_whole(
    layer: Lora2Layer, adapter_name: str, parameters: Mapping[str, nn.Parameter]
) -> bool:
    """Whether the factors are here and plain: not sharded, offloaded or of another kind.

    Where a finished adapter has pruned values in memory, each layer leaves them out by itself.
    """
    state = layer.lora2_states[adapter_name]
    return (
        state.r > 0
        and state.pruned is None
        # FSDP1 leaves flattened parts in their place.
        and parameters["u"].shape == (state.k, state.r)
        and all(type(each) is nn.Parameter and not each.is_meta for each in parameters.values())
    )
