"""The soft threshold against its closed form and its definition, and its schedules step by step."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from lora2.mathematics.soft_threshold import THRESHOLD_SHAPES, soft_threshold, threshold_at

# Multiples of ξ, on both sides of every value at which something could happen.
MULTIPLES = (0.0, 0.01, 0.5, 0.999, 1.0, 1.001, 1.2, 1.5, 1.999, 2.0, 2.001, 3.0, 50.0)
THRESHOLDS = (1e-4, 0.1, 0.75, 3.0)


def tensor(numbers: Sequence[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def values(threshold: float) -> Tensor:
    multiples = tensor(MULTIPLES)
    return threshold * torch.cat([multiples, -multiples])


def closed_form(g: float, threshold: float) -> float:
    if g > threshold:
        return g - threshold
    if g < -threshold:
        return g + threshold
    return 0.0


def minimiser(g: float, threshold: float) -> float:
    """The z at which (z − g)²/2 + ξ |z| is smallest, on a grid that closes in on its best point.

    The function is convex, so its minimum is next to the best point of any grid. Values are taken
    less that at zero, where they would cancel.
    """
    reach = abs(g) + threshold
    centre = 0.0
    for _ in range(12):
        grid = centre + reach * torch.linspace(-1, 1, 401, dtype=torch.float64)
        costs = grid * (grid / 2 - g) + threshold * grid.abs()
        centre = float(grid[costs.argmin()])
        reach /= 100
    return centre


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_is_the_closed_form(threshold: float) -> None:
    g = values(threshold)
    expected = tensor([closed_form(each, threshold) for each in g.tolist()])
    torch.testing.assert_close(soft_threshold(g, threshold), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_is_the_minimiser_that_defines_it(threshold: float) -> None:
    g = values(threshold)
    expected = tensor([minimiser(each, threshold) for each in g.tolist()])
    found = soft_threshold(g, threshold)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6 * threshold)


@pytest.mark.parametrize("sign", [1, -1])
def test_values_between_one_and_two_thresholds_are_not_zeroed(sign: int) -> None:
    """As the authors' code does, which subtracts before it compares."""
    g = sign * torch.tensor([0.1001, 0.125, 0.15, 0.1999])
    result = soft_threshold(g, 0.1)
    assert result.count_nonzero() == 4
    assert torch.equal(result.sign(), g.sign())


@pytest.mark.parametrize("g", [0.0, 0.1, -0.1, 0.05])
def test_values_up_to_the_threshold_become_exactly_zero(g: float) -> None:
    assert soft_threshold(torch.tensor([g]), 0.1).tolist() == [0.0]


def test_a_threshold_of_zero_changes_nothing() -> None:
    g = values(0.3)
    assert torch.equal(soft_threshold(g, 0.0), g)


@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shape_and_dtype_stay(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    result = soft_threshold(torch.ones(shape, dtype=dtype), 0.5)
    assert result.shape == shape
    assert result.dtype == dtype
    assert (result == 0.5).all()


# 14 steps in 7 stages: two steps each.
SCHEDULES = {
    "constant": (0.25, 9.0, [0.25] * 7),
    "linear": (0.1, 0.7, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]),
    "log_linear": (0.0, math.log(7), [math.log(stage) for stage in range(1, 8)]),
    "exp_linear": (1e-6, 1.0, [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0]),
}


@pytest.mark.parametrize("shape", THRESHOLD_SHAPES)
def test_every_shape_has_these_values_at_these_steps(shape: str) -> None:
    first, last, stages = SCHEDULES[shape]
    found = [
        threshold_at(step, total_steps=14, first=first, last=last, stages=7, shape=shape)
        for step in range(1, 15)
    ]
    assert found == pytest.approx([value for value in stages for _ in range(2)], rel=1e-12)


@pytest.mark.parametrize("shape", ["linear", "log_linear", "exp_linear"])
@pytest.mark.parametrize(("total", "stages"), [(2, 2), (7, 7), (10, 7), (1000, 7), (999, 3)])
def test_the_first_stage_has_the_first_value_and_the_last_stage_the_last(
    shape: str, total: int, stages: int
) -> None:
    def at(step: int) -> float:
        return threshold_at(
            step, total_steps=total, first=0.01, last=0.5, stages=stages, shape=shape
        )

    assert at(1) == pytest.approx(0.01, rel=1e-12)
    assert at(total) == pytest.approx(0.5, rel=1e-12)
    found = [at(step) for step in range(1, total + 1)]
    assert found == sorted(found)
    assert len(set(found)) == stages


@pytest.mark.parametrize(("step", "stage"), [(1, 0), (4, 0), (5, 1), (7, 1), (8, 2), (10, 2)])
def test_stages_begin_at_the_first_step_behind_their_share(step: int, stage: int) -> None:
    # Ten steps in three stages: they begin after 0, 10/3 and 20/3 steps.
    found = threshold_at(step, total_steps=10, first=0, last=2, stages=3, shape="linear")
    assert found == stage


@pytest.mark.parametrize("shape", THRESHOLD_SHAPES)
def test_one_stage_stays_at_the_first_value(shape: str) -> None:
    for step in (1, 5, 10):
        assert threshold_at(step, total_steps=10, first=0.1, last=0.9, stages=1, shape=shape) == 0.1
