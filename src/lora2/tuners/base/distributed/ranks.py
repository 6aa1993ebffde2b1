"""What several processes of one training must agree on; one process alone agrees with itself."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def are_several() -> bool:
    """Whether this process is one of several that exchange tensors."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def agree_on(tensor: Tensor) -> bool:
    """Whether every process has the tensor of process 0; all processes learn the same."""
    if not are_several():
        return True
    own = tensor.to(_device(), torch.uint8)
    first = own.clone()
    dist.broadcast(first, src=0)
    differs = (own != first).any().to(torch.uint8)
    dist.all_reduce(differs, op=dist.ReduceOp.MAX)
    return not bool(differs)


def from_first_process(tensor: Tensor) -> Tensor:
    """Return the tensor of process 0, of the same shape in all."""
    if not are_several():
        return tensor
    first = tensor.to(_device(), copy=True)
    dist.broadcast(first, src=0)
    return first.to(tensor.device)


def first_of_all(position: int | None) -> int | None:
    """Return the lowest position that a process has, None if none has one."""
    if not are_several():
        return position
    none = torch.iinfo(torch.int64).max
    lowest = torch.tensor(none if position is None else position, device=_device())
    dist.all_reduce(lowest, op=dist.ReduceOp.MIN)
    return None if int(lowest) == none else int(lowest)


def _device() -> torch.device:
    """A device whose tensors the processes can exchange."""
    is_gpu = "nccl" in dist.get_backend() and torch.cuda.is_available()
    return torch.device("cuda", torch.cuda.current_device()) if is_gpu else torch.device("cpu")
