"""DTensors, as FSDP2 (`fully_shard`) makes of parameters: how wholes and local parts are read."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

_MODULE = "torch.distributed.tensor"


def is_dtensor(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor; there is none until somebody has imported the class."""
    kind = getattr(sys.modules.get(_MODULE), "DTensor", ())
    return isinstance(tensor, kind)


def is_fully_sharding() -> bool:
    """Whether `fully_shard` has been called in this process, on any module."""
    # It gives modules a class derived from this.
    kind = _sharded_class()
    return kind is not None and bool(kind.__subclasses__())


def is_fully_sharded(model: nn.Module) -> bool:
    """Whether `fully_shard` has been called on a model, on a part of it or on a module around it.

    During a forward pass, parameters are plain tensors, which exist until the pass of their module
    ends.
    """
    kind = _sharded_class()
    if kind is None or not kind.__subclasses__():
        return False
    if any(isinstance(module, kind) for module in model.modules()):
        return True
    # A model does not know what is around it; torch knows all that it has sharded.
    from torch.distributed._composable_state import _module_state_mapping

    around = [module for module in _module_state_mapping if isinstance(module, kind)]
    return any(part is model for module in around for part in module.modules())


def _sharded_class() -> Any:
    return getattr(sys.modules.get("torch.distributed.fsdp"), "FSDPModule", None)


def local(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that this process holds: its storage, not a copy."""
    dtensor: Any = tensor
    part: Tensor = dtensor.to_local() if is_dtensor(tensor) else tensor
    return part


def parts(tensor: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """Return the local part of a tensor, and the same part of a whole tensor of its size."""
    if not is_dtensor(tensor):
        return tensor, factor
    return local(tensor), in_layout_of(factor, tensor).to_local()


@torch.no_grad()
def gathered(tensors: Sequence[Any]) -> list[Tensor]:
    """Return DTensors as a whole, each on the device of its local part."""
    result: dict[int, Tensor] = {}
    groups: dict[tuple[Any, int, torch.dtype, torch.device], list[int]] = {}
    for position, tensor in enumerate(tensors):
        dimension = _sharded_dimension(tensor)
        if dimension is None:
            result[position] = tensor.full_tensor()
        else:
            key = tensor.device_mesh, dimension, tensor.dtype, local(tensor).device
            groups.setdefault(key, []).append(position)
    for (mesh, dimension, _, _), positions in groups.items():
        group = [tensors[position] for position in positions]
        result |= zip(positions, _gather_rows(group, mesh, dimension), strict=True)
    return [result[position] for position in range(len(tensors))]


def gathered_in_graph(tensors: Sequence[Any]) -> list[Tensor]:
    """Return DTensors as a whole; their gradients are means over the processes."""
    return list(_Gather.apply(*tensors))


class _Gather(torch.autograd.Function):
    """Gathers, and hands each process its part of the mean gradient."""

    @staticmethod
    def forward(ctx: Any, *tensors: Any) -> tuple[Tensor, ...]:
        ctx.tensors = tensors
        return tuple(gathered(tensors))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        means = _means(ctx.tensors, gradients)
        return tuple(
            in_layout_of(mean, tensor) for mean, tensor in zip(means, ctx.tensors, strict=True)
        )


def _means(tensors: Sequence[Any], gradients: Sequence[Tensor]) -> list[Tensor]:
    """Return the means of gradients over the processes, by one operation a mesh and dtype."""
    result: dict[int, Tensor] = {}
    groups: dict[tuple[Any, torch.dtype], list[int]] = {}
    for position, (tensor, gradient) in enumerate(zip(tensors, gradients, strict=True)):
        groups.setdefault((tensor.device_mesh, gradient.dtype), []).append(position)
    for (mesh, _), positions in groups.items():
        own = [gradients[position] for position in positions]
        flat = torch.cat([gradient.flatten() for gradient in own]).to(mesh.device_type)
        for dimension in range(mesh.ndim):
            dist.all_reduce(flat, group=mesh.get_group(dimension))
        pieces = (flat / mesh.size()).split([gradient.numel() for gradient in own])
        for position, piece, gradient in zip(positions, pieces, own, strict=True):
            result[position] = piece.view_as(gradient).to(gradient.device)
    return [result[position] for position in range(len(tensors))]


def in_layout_of(whole: Tensor, tensor: Any) -> Any:
    """Return a whole tensor, which every process has, in the layout of a DTensor; no messages."""
    from torch.distributed.tensor import distribute_tensor

    device = local(tensor).device
    mesh, placements = tensor.device_mesh, tensor.placements
    moved = whole.to(mesh.device_type)
    result = distribute_tensor(moved, mesh, placements, src_data_rank=None)
    return result if result.to_local().device == device else result.to(device)


def _sharded_dimension(tensor: Any) -> int | None:
    """Return the dimension of the mesh over which rows are split, if nothing else is.

    None for every other layout, which DTensor gathers itself, one tensor at a time.
    """
    sharded = [i for i, placement in enumerate(tensor.placements) if not placement.is_replicate()]
    if len(sharded) != 1 or type(tensor.placements[sharded[0]]).__name__ != "Shard":
        return None
    return sharded[0] if tensor.placements[sharded[0]].dim == 0 else None


def _gather_rows(tensors: Sequence[Any], mesh: Any, dimension: int) -> list[Tensor]:
    """Gather tensors whose rows are split into equal chunks; the last ones may be short."""
    processes = mesh.size(dimension)
    padded, sizes = [], []
    for tensor in tensors:
        rows = -(-tensor.shape[0] // processes)
        own = local(tensor)
        padding = own.new_zeros(rows - own.shape[0], *own.shape[1:])
        padded.append(torch.cat([own, padding]).flatten())
        sizes.append(padded[-1].numel())
    device = padded[0].device
    flat = torch.cat(padded).to(mesh.device_type)
    everything = flat.new_empty(processes, flat.numel())
    dist.all_gather(list(everything.unbind()), flat, group=mesh.get_group(dimension))
    return [
        # A tensor of as many rows as there are processes would be a view of columns, which
        # safetensors refuses.
        piece.reshape(-1 if piece.numel() else 0, *tensor.shape[1:])[: tensor.shape[0]]
        .contiguous()
        .to(device)
        for tensor, piece in zip(tensors, everything.split(sizes, dim=1), strict=True)
    ]
