"""A learning rate of its own for what is trained whole with every method: the task's head."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn
from torch.optim import Optimizer


def give_own_rate(optimizer: Optimizer, parameters: Collection[nn.Parameter], rate: float) -> None:
    """Move parameters of a new optimizer into groups of their own with this learning rate.

    All other settings of a group, such as its weight decay, stay. A learning rate scheduler that
    is made afterwards multiplies each group's rate by the same factor.
    """
    chosen = {id(parameter) for parameter in parameters}
    added: list[dict[str, Any]] = []
    for group in optimizer.param_groups:
        own = [parameter for parameter in group["params"] if id(parameter) in chosen]
        if own:
            group["params"] = [each for each in group["params"] if id(each) not in chosen]
            added.append({**group, "params": own, "lr": rate})
    optimizer.param_groups[:] = [g for g in optimizer.param_groups if g["params"]] + added
