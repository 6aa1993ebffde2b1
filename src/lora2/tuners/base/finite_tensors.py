"""Which of several numbers or tensors is the first that holds NaN or infinity."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lora2.tuners.base.distributed.gathering import is_plain, local_part
from lora2.tuners.base.distributed.ranks import first_of_all


def first_bad_number(numbers: Sequence[Tensor]) -> int | None:
    """Return the position of the first scalar that is not finite; waits for the device once."""
    if not numbers:
        return None
    device = numbers[0].device
    together = torch.stack([number.to(device, torch.float32) for number in numbers])
    finite = torch.isfinite(together).tolist()
    return finite.index(False) if False in finite else None


def first_bad_of_all(tensors: Sequence[Tensor]) -> int | None:
    """Return the position of the first tensor that holds NaN or infinity, None if none does.

    Of tensors that are sharded, all processes learn the lowest that one of them has found.
    """
    first = first_bad_local_tensor(tensors)
    return first if is_plain(tensors) else first_of_all(first)


def first_bad_local_tensor(tensors: Sequence[Tensor]) -> int | None:
    """Return the position of the first tensor whose part in this process is not finite.

    It waits for the device once, if all is finite and no square overflows.
    """
    parts = tensors if is_plain(tensors) else [local_part(tensor) for tensor in tensors]
    positions = [position for position, part in enumerate(parts) if part.numel()]
    if not positions:
        return None
    filled = [parts[position] for position in positions]
    # A sum of squares takes a CPU a quarter of the time of the largest absolute value, but it may
    # overflow. Then the largest absolute value decides: it cannot overflow.
    if first_bad_number(torch._foreach_norm(filled)) is None:
        return None
    first = first_bad_number(torch._foreach_norm(filled, float("inf")))
    return None if first is None else positions[first]
