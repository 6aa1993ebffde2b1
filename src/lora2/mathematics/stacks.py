"""Many small matrices as a few stacks, one for each shape among them."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


def stacks(
    tensors: Sequence[Tensor], most: int | None = None
) -> Iterator[tuple[list[int], Tensor]]:
    """Yield stacks of tensors of one shape, and their positions in the list.

    most: numbers that a stack may hold, if it holds more than one tensor.
    """
    by_shape: dict[torch.Size, list[int]] = {}
    for position, tensor in enumerate(tensors):
        by_shape.setdefault(tensor.shape, []).append(position)
    for shape, positions in by_shape.items():
        size = len(positions) if most is None else max(1, most // max(1, shape.numel()))
        for start in range(0, len(positions), size):
            part = positions[start : start + size]
            yield part, torch.stack([tensors[i] for i in part])
