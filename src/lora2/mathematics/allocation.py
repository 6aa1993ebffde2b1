"""Which singular values are kept (Algorithm 1)."""

import torch
from torch import Tensor


def keep_most_important(importance: Tensor, budget: int, costs: Tensor | None = None) -> Tensor:
    """Return a mask [n] of the values with the highest importance per cost that fit the budget.

    Without costs each value costs 1, and exactly `budget` of them are kept. With costs all that is
    kept is above one threshold on importance / cost: the first value that does not fit ends the
    choice, and no cheaper one below it is taken in its place. A value that costs more than the
    whole budget cannot be kept and takes no part. Equal values are kept in their order,
    so that the result is the same on every machine, even when all are equal, as at the start.
    importance [n], costs [n] as whole numbers.
    """
    per_cost = importance if costs is None else importance / costs
    order = torch.sort(per_cost, descending=True, stable=True).indices
    mask = torch.zeros_like(importance, dtype=torch.bool)
    if costs is None:
        # `scatter_` takes the number itself; an assignment would send it to the device, and wait.
        return mask.scatter_(0, order[:budget], True)
    # A value that alone costs more than the budget goes last, where it ends nothing.
    order = order[torch.sort(costs[order] > budget, stable=True).indices]
    return mask.scatter_(0, order, costs[order].cumsum(0) <= budget)
