"""How small pruning can make an adapter, known before training: between two bounds."""

from __future__ import annotations

from collections.abc import Sequence

from lora2.tuners.lora2.config import Lora2Config
from lora2.tuners.lora2.matrix_size import MatrixSize


def final_sizes(config: Lora2Config, matrices: Sequence[MatrixSize]) -> tuple[int, int]:
    """Return the fewest and the most parameters that a finished adapter can have, as a LoRA.

    Which values are kept is known at the end alone; a budget in parameters has one bound.
    """
    target = config.target_budget(matrices)
    if config.budget_unit == "parameters":
        return target, target
    return _fewest(target, matrices), _most(target, matrices)


def _fewest(values: int, matrices: Sequence[MatrixSize]) -> int:
    """Whole matrices, those in which a value costs least first."""
    found = 0
    # A finished adapter that trains on may have empty matrices.
    started = [matrix for matrix in matrices if matrix.r]
    for matrix in sorted(started, key=lambda matrix: matrix.parameters(matrix.r) / matrix.r):
        kept = min(values, matrix.r)
        found += matrix.parameters(kept)
        values -= kept
    return found


def _most(values: int, matrices: Sequence[MatrixSize]) -> int:
    """The most costly values that add to the rank of their matrix; the others cost nothing."""
    costs = sorted(
        (matrix.cost for matrix in matrices for _ in range(min(matrix.k, matrix.r))), reverse=True
    )
    return sum(costs[:values])
