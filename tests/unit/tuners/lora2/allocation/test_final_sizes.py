"""The bounds of a finished adapter's size, against every way to keep that many values."""

import itertools
import random
from collections.abc import Sequence

import pytest

from lora2 import Lora2Config
from lora2.tuners.lora2.allocation.final_sizes import final_sizes
from lora2.tuners.lora2.matrix_size import MatrixSize

SQUARE, LONG, NARROW = MatrixSize(12, 3, 3), MatrixSize(26, 3, 3), MatrixSize(8, 2, 3)


def all_sizes(matrices: Sequence[MatrixSize], values: int) -> set[int]:
    """The size of every way to keep that many values."""
    return {
        sum(matrix.parameters(n) for matrix, n in zip(matrices, kept, strict=True))
        for kept in itertools.product(*(range(matrix.r + 1) for matrix in matrices))
        if sum(kept) == values
    }


@pytest.mark.parametrize("target_r", [1 / 3, 1, 4 / 3, 2, 8 / 3])
def test_bounds_are_the_smallest_and_the_largest_size_there_is(target_r: float) -> None:
    matrices = [SQUARE, LONG, SQUARE]
    config = Lora2Config(k=3, init_r=3, target_r=target_r)
    sizes = all_sizes(matrices, round(3 * target_r))
    assert final_sizes(config, matrices) == (min(sizes), max(sizes))


@pytest.mark.parametrize("seed", range(10))
def test_bounds_hold_with_narrow_matrices_and_ranks_of_their_own(seed: int) -> None:
    """Where the cheapest whole matrices first are not the smallest choice."""
    draw = random.Random(seed)
    kinds = [MatrixSize(draw.randint(2, 30), draw.randint(1, 4), draw.randint(0, 6)) for _ in "abc"]
    matrices = draw.choices(kinds, k=5)
    whole = sum(matrix.r for matrix in matrices)
    for values in range(1, whole + 1):
        config = Lora2Config(k=4, init_r=6, target_r=values / len(matrices))
        sizes = all_sizes(matrices, values)
        assert final_sizes(config, matrices) == (min(sizes), max(sizes))


def test_the_first_whole_matrix_is_not_always_of_the_smallest_choice() -> None:
    matrices = [MatrixSize(10, 1, 5), MatrixSize(9, 2, 8)]
    # A value costs less in the first, but the second holds all eight.
    assert final_sizes(Lora2Config(k=4, init_r=8, target_r=4), matrices) == (18, 28)


def test_many_matrices_are_counted_at_once() -> None:
    """As many as a large mixture of experts has."""
    matrices = [MatrixSize(3000, 8, 8), MatrixSize(5000, 8, 8)] * 10_000
    config = Lora2Config(k=8, init_r=8, target_r=2)
    assert final_sizes(config, matrices) == (40_000 * 3000, 40_000 * 5000)


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
