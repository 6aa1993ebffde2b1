"""Tensors of an adapter, whatever holds them: whole, or sharded over processes by FSDP2.

What is plain passes through as it is. What is sharded is gathered by collective operations, in
which all processes must take part; many tensors are gathered by one operation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lora2.errors import UserError
from lora2.tuners.base.distributed import dtensors

_PLAIN = {Tensor, nn.Parameter}
_PLAIN_OR_NONE = {*_PLAIN, type(None)}


def is_plain(tensors: Iterable[Tensor]) -> bool:
    """Whether all tensors are whole in this process."""
    return {type(tensor) for tensor in tensors} <= _PLAIN


def is_sharded(tensor: Tensor) -> bool:
    """Whether several processes hold a part of the tensor each."""
    return dtensors.is_dtensor(tensor)


def whole(tensors: list[Tensor]) -> list[Tensor]:
    """Return each tensor as a whole, on its device, without a graph."""
    if is_plain(tensors):
        return tensors
    gathered = dtensors.gathered([tensor for tensor in tensors if is_sharded(tensor)])
    rest = iter(gathered)
    return [next(rest) if is_sharded(tensor) else tensor for tensor in tensors]


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

    That is what becomes of a gradient that FSDP2 or DistributedDataParallel reduces themselves.
    """
    if is_plain(tensors):
        return list(tensors)
    rest = iter(dtensors.gathered_in_graph([tensor for tensor in tensors if is_sharded(tensor)]))
    return [next(rest) if is_sharded(tensor) else tensor for tensor in tensors]


@torch.no_grad()
def multiply(tensors: Sequence[Tensor], factors: Sequence[Tensor]) -> None:
    """Multiply tensors in place by whole factors of their sizes."""
    if not is_plain(tensors):
        pairs = [dtensors.parts(*pair) for pair in zip(tensors, factors, strict=True)]
        tensors, factors = zip(*pairs, strict=True)
    torch._foreach_mul_(list(tensors), list(factors))


def is_fully_sharding() -> bool:
    """Whether `fully_shard` has been called in this process.

    During a forward pass, parameters are plain tensors that exist until the end of their module's.
    """
    return dtensors.is_fully_sharding()


def here(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that this process holds, which may be empty."""
    return dtensors.local(tensor)


def check_is_not_deepspeed(parameters: Iterable[Tensor], adapter_name: str) -> None:
    """Check that DeepSpeed ZeRO does not train these parameters.

    It steps inside `backward` and clears the gradients there, so that nothing can be scored.

    Raises:
        UserError: it does.
    """
    # ZeRO-3 marks parameters by the first, ZeRO-1 and ZeRO-2 by the second.
    if any(hasattr(each, "ds_id") or hasattr(each, "_hp_mapping") for each in parameters):
        raise UserError(
            f"Adapter {adapter_name!r} cannot be pruned under DeepSpeed ZeRO, which clears the "
            "gradients before they can be scored: use FSDP2 (torch's fully_shard; fsdp_version: 2 "
            "in accelerate) or DistributedDataParallel, or train without target_r."
        )


def check_size(tensor: Tensor, shape: Sequence[int], name: str) -> None:
    """Check that a tensor has the size that its layer gives it.

    Raises:
        UserError: it is flattened or partitioned, as FSDP1 and DeepSpeed ZeRO-3 do it.
    """
    if tuple(tensor.shape) != tuple(shape):
        raise UserError(
            f"{name} must be {list(shape)}, and {list(tensor.shape)} is here: this engine flattens "
            "or partitions parameters (FullyShardedDataParallel or DeepSpeed ZeRO-3). Use FSDP2 "
            "(torch's fully_shard; fsdp_version: 2 in accelerate) or DistributedDataParallel."
        )


def _is_sharded_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) and is_sharded(value)
