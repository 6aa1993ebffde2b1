"""The bounds of a finished adapter's size, against every way to keep that many values."""

import itertools

import pytest

from lora2 import Lora2Config
from lora2.tuners.lora2.allocation.final_sizes import final_sizes
from lora2.tuners.lora2.matrix_size import MatrixSize

SQUARE, LONG, NARROW = MatrixSize(12, 3, 3), MatrixSize(26, 3, 3), MatrixSize(8, 2, 3)


@pytest.mark.parametrize("target_r", [1 / 3, 1, 4 / 3, 2, 8 / 3])
def test_bounds_are_the_smallest_and_the_largest_size_there_is(target_r: float) -> None:
    matrices = [SQUARE, LONG, SQUARE]
    config = Lora2Config(k=3, init_r=3, target_r=target_r)
    sizes = {
        sum(matrix.parameters(n) for matrix, n in zip(matrices, kept, strict=True))
        for kept in itertools.product(range(4), repeat=3)
        if sum(kept) == round(3 * target_r)
    }
    assert final_sizes(config, matrices) == (min(sizes), max(sizes))


def test_values_beyond_the_rank_cost_nothing() -> None:
    config = Lora2Config(k=1, init_r=8, target_r=4)
    matrices = [MatrixSize(12, 1, 8), MatrixSize(26, 1, 8)]
    # All eight values in the first, or one at least in each.
    assert final_sizes(config, matrices) == (12, 38)


def test_an_empty_matrix_stays_empty() -> None:
    config = Lora2Config(k=3, init_r=3, target_r=1)
    # One value a matrix on average, and both can only be the second's.
    assert final_sizes(config, [MatrixSize(32, 0, 0), SQUARE]) == (24, 24)


def test_an_unpruned_adapter_has_one_size() -> None:
    config = Lora2Config(k=3, init_r=3)
    assert final_sizes(config, [SQUARE, NARROW]) == (36 + 16, 36 + 16)


def test_a_budget_in_parameters_is_the_size() -> None:
    config = Lora2Config(k=3, init_r=3, target_r=1, budget_unit="parameters")
    assert final_sizes(config, [SQUARE, LONG]) == (38, 38)
