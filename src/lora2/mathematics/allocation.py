"""Which singular values are kept (Algorithm 1)."""

import torch
from torch import Tensor


def keep_most_important(importance: Tensor, budget: int) -> Tensor:
    """Return a mask [n] with exactly `budget` True: the most important values.

    Equal values are kept in their order, so that the result is the same on every machine
    and exactly `budget` remain even when all are equal, as at the start. importance [n].
    """
    order = torch.sort(importance, descending=True, stable=True).indices
    mask = torch.zeros_like(importance, dtype=torch.bool)
    # `scatter_` takes the number itself; an assignment would send it to the device, and wait.
    return mask.scatter_(0, order[:budget], True)
