"""Which singular values are kept where the budget counts parameters: what each of them costs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lora2.mathematics.allocation import keep_most_important
from lora2.tuners.lora2.matrix_size import MatrixSize


def keep_within_parameters(
    importance: Tensor, budget: int, costs: Tensor, matrices: Sequence[MatrixSize]
) -> Tensor:
    """Return a mask [n] of the values with the highest importance per cost that fit the budget.

    Of a matrix that has more values than its change can have rank, the first k have a cost: once
    all of them are kept, the others cost nothing and are kept as well.

    Args:
        importance: [n], of the singular values of all matrices.
        budget: parameters of a LoRA of what is kept.
        costs: [n], the parameters of a LoRA of rank one on the matrix of each value.
        matrices: in the order of the values.
    """
    ranks = [matrix.r for matrix in matrices]
    narrow = [i for i, matrix in enumerate(matrices) if matrix.is_narrow]
    parts = importance.split(ranks)
    free = torch.zeros_like(importance, dtype=torch.bool)
    for i in narrow:
        order = parts[i].sort(descending=True, stable=True).indices
        free.split(ranks)[i][order[matrices[i].k :]] = True
    # What costs more than the budget takes no part.
    priced = costs.to(importance.device).masked_fill(free, budget + 1)
    mask = keep_most_important(importance, budget, priced)
    for i in narrow:
        kept = mask.split(ranks)[i]
        kept |= kept.sum() == matrices[i].k
    return mask
