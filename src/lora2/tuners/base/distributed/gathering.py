"""Tensors of an adapter, whatever holds them: whole, or split by FSDP2 or DeepSpeed ZeRO.

What is plain passes through as it is. What is sharded is gathered by collective operations, in
which all processes must take part; many tensors are gathered by one operation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lora2.errors import UserError
from lora2.tuners.base.distributed import dtensors, zero

GradientsOf = Callable[[Sequence[nn.Parameter]], list[Tensor | None]]
"""A function that returns the gradient of the whole batch for each parameter, as a whole."""

_PLAIN = {Tensor, nn.Parameter}
_PLAIN_OR_NONE = {*_PLAIN, type(None)}


def is_plain(tensors: Iterable[Tensor]) -> bool:
    """Whether all tensors are whole in this process, and nowhere else."""
    held = list(tensors)
    return {type(tensor) for tensor in held} <= _PLAIN and not zero.is_any_trained_by_zero(held)


def is_sharded(tensor: Tensor) -> bool:
    """Whether several processes hold a part of the tensor each."""
    return dtensors.is_dtensor(tensor) or zero.is_partitioned(tensor)


def whole(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return each tensor as a whole, on its device, without a graph."""
    if is_plain(tensors):
        return list(tensors)
    return _replaced(tensors, dtensors.gathered, zero.gathered)


def whole_by_name(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state dict with every tensor in it as a whole; other values as they are."""
    sharded = {name: value for name, value in tensors.items() if _is_sharded_tensor(value)}
    if not sharded:
        return dict(tensors)
    return {**tensors, **dict(zip(sharded, whole(list(sharded.values())), strict=True))}


def whole_gradients(parameters: Sequence[nn.Parameter]) -> list[Tensor | None]:
    """Return the gradient of the whole batch for each parameter, as a whole; None where none is."""
    gradients = [parameter.grad for parameter in parameters]
    if {type(gradient) for gradient in gradients} <= _PLAIN_OR_NONE:
        return gradients
    rest = iter(whole([gradient for gradient in gradients if gradient is not None]))
    return [None if gradient is None else next(rest) for gradient in gradients]


def whole_in_graph(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return each tensor as a whole; gradients flow back, as their mean over the processes.

    That is what becomes of a gradient that FSDP2, DeepSpeed or DistributedDataParallel reduces
    themselves.
    """
    if is_plain(tensors):
        return list(tensors)
    return _replaced(tensors, dtensors.gathered_in_graph, zero.gathered_in_graph)


@torch.no_grad()
def multiply(tensors: Sequence[Tensor], factors: Sequence[Tensor]) -> None:
    """Multiply tensors in place by whole factors of their sizes."""
    if zero.is_any_trained_by_zero(tensors):
        for tensor, factor in zip(tensors, factors, strict=True):
            zero.multiply(tensor, factor)
        return
    if not is_plain(tensors):
        pairs = [dtensors.parts(*pair) for pair in zip(tensors, factors, strict=True)]
        tensors, factors = zip(*pairs, strict=True)
    torch._foreach_mul_(list(tensors), list(factors))


def in_layout_of(matrix: Tensor, weight: Tensor) -> Tensor:
    """Return a whole matrix, which all processes have, as a weight of its size is held."""
    return (
        dtensors.in_layout_of(matrix, weight)
        if dtensors.is_dtensor(weight)
        else matrix.to(weight.device)
    )


def local_part(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that this process holds, which may be empty."""
    return zero.local(tensor) if zero.is_partitioned(tensor) else dtensors.local(tensor)


def check_size(tensor: Tensor, shape: Sequence[int], name: str) -> None:
    """Check that a tensor has the size that its layer gives it.

    Raises:
        UserError: it is flattened, as FSDP1 does it.
    """
    if tuple(tensor.shape) != tuple(shape):
        raise UserError(
            f"{name} must be {list(shape)}, and {list(tensor.shape)} is here: this engine flattens "
            "parameters (FullyShardedDataParallel). Use FSDP2 (torch's fully_shard; fsdp_version: "
            "2 in accelerate), DeepSpeed ZeRO or DistributedDataParallel."
        )


def _is_sharded_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) and is_sharded(value)


def _replaced(
    tensors: Sequence[Tensor],
    of_dtensors: Callable[[list[Any]], list[Tensor]],
    of_partitioned: Callable[[list[Tensor]], list[Tensor]],
) -> list[Tensor]:
    """Return what the functions make of those tensors that are split, in place of them."""
    result = list(tensors)
    for is_split, make in (
        (dtensors.is_dtensor, of_dtensors),
        (zero.is_partitioned, of_partitioned),
    ):
        positions = [i for i, tensor in enumerate(tensors) if is_split(tensor)]
        if positions:
            made = make([tensors[i] for i in positions])
            for position, tensor in zip(positions, made, strict=True):
                result[position] = tensor
    return result
