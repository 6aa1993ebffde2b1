"""How small pruning can make an adapter, known before training: between two bounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from lora2.tuners.lora2.config import Lora2Config
from lora2.tuners.lora2.matrix_size import MatrixSize


def final_sizes(config: Lora2Config, matrices: Sequence[MatrixSize]) -> tuple[int, int]:
    """Return the fewest and the most parameters that a finished adapter can have, as a LoRA.

    Which values are kept is known at the end alone; a budget in parameters has one bound.
    """
    target = config.target_budget(matrices)
    if config.budget_unit == "parameters":
        return target, target
    return sizes_of_values(target, matrices)


def sizes_of_values(values: int, matrices: Sequence[MatrixSize]) -> tuple[int, int]:
    """Return the fewest and the most parameters of so many singular values, as a LoRA."""
    return _fewest(values, matrices), _most(values, matrices)


def _fewest(values: int, matrices: Sequence[MatrixSize]) -> int:
    """Return the smallest size, by the fewest parameters for each number of values up to this.

    A matrix costs the less for each of its values, the more of them it keeps: beyond its rank they
    are free. So of two that keep a part, one can give values to the other and nothing grows, until
    it is empty or the other whole: in some smallest choice at most one matrix keeps a part.
    """
    # No value of no matrix costs nothing; any other number cannot be had.
    without_part = torch.full((values + 1,), torch.inf, dtype=torch.float64)
    with_part = without_part.clone()
    without_part[0] = 0
    for matrix, count in Counter(matrices).items():
        others = _with_whole(without_part, matrix, count - 1)
        with_part = _with_whole(with_part, matrix, count)
        for kept in range(1, min(matrix.r, values + 1)):
            part = _later(others, kept) + matrix.parameters(kept)
            with_part = torch.minimum(with_part, part)
        without_part = _with_whole(without_part, matrix, count)
    return int(min(without_part[values], with_part[values]))


def _with_whole(fewest: Tensor, matrix: MatrixSize, count: int) -> Tensor:
    """Return the fewest parameters [values + 1] where up to `count` such matrices are whole."""
    together = 1
    while count:
        # Any number up to `count` is a sum of some of these.
        together = min(together, count)
        more = _later(fewest, together * matrix.r) + together * matrix.parameters(matrix.r)
        fewest = torch.minimum(fewest, more)
        count -= together
        together *= 2
    return fewest


def _later(fewest: Tensor, kept: int) -> Tensor:
    """Return the same where so many values are kept already."""
    absent = fewest.new_full((min(kept, len(fewest)),), torch.inf)
    return torch.cat([absent, fewest])[: len(fewest)]


def _most(values: int, matrices: Sequence[MatrixSize]) -> int:
    """The most costly values that add to the rank of their matrix; the others cost nothing."""
    costs = sorted(
        (matrix.cost for matrix in matrices for _ in range(min(matrix.k, matrix.r))), reverse=True
    )
    return sum(costs[:values])
