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


def keep_most_important_for_cost(importance: Tensor, costs: Tensor, budget: float) -> Tensor:
    """Return a mask [n] of the values with the highest importance per cost that fit the budget.

    They are all above one threshold on importance / cost: the first one that does not fit ends the
    choice, and a cheaper one below it is not taken in its place. Equal ones are kept in their
    order. importance [n], costs [n] in parameters.
    """
    order = torch.sort(importance / costs, descending=True, stable=True).indices
    fits = costs[order].cumsum(0, dtype=torch.float64) <= budget
    return torch.zeros_like(fits).scatter_(0, order, fits)
