"""The budget at named steps by hand, and at every step of many schedules by exact fractions."""

import itertools

import pytest

import oracle
from cases import SCHEDULE_IDS, SCHEDULES, Schedule
from lora2.mathematics.schedule import BUDGET_SHAPES, budget_at

each_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=SCHEDULE_IDS)


def _budget(schedule: Schedule, step: int) -> int:
    return budget_at(
        step,
        total_steps=schedule.total_steps,
        initial=schedule.initial,
        target=schedule.final,
        warmup_steps=schedule.warmup_steps,
        final_steps=schedule.final_steps,
        interval=schedule.interval,
        shape=schedule.kind,  # type: ignore[arg-type]
    )


def test_shapes_are_cubic_linear_and_constant() -> None:
    assert set(BUDGET_SHAPES) == {"cubic", "linear", "constant"}


@each_schedule
def test_budget_at_named_steps_is_the_one_worked_out_by_hand(schedule: Schedule) -> None:
    actual = {step: _budget(schedule, step) for step in schedule.budgets}
    assert actual == schedule.budgets


@each_schedule
def test_oracle_gives_the_budgets_worked_out_by_hand(schedule: Schedule) -> None:
    actual = {
        step: oracle.budget(
            step,
            schedule.total_steps,
            schedule.initial,
            schedule.final,
            schedule.warmup_steps,
            schedule.final_steps,
            schedule.kind,
            schedule.interval,
        )
        for step in schedule.budgets
    }
    assert actual == schedule.budgets


@each_schedule
def test_budget_is_a_whole_number_that_never_rises(schedule: Schedule) -> None:
    budgets = [_budget(schedule, step) for step in range(schedule.total_steps + 1)]
    assert all(type(value) is int for value in budgets)
    assert all(later <= earlier for earlier, later in itertools.pairwise(budgets))
    assert budgets[0] == schedule.initial
    assert budgets[-1] == schedule.final


@pytest.mark.parametrize("interval", [1, 2, 5])
@pytest.mark.parametrize("kind", ["cubic", "linear", "constant"])
def test_budget_is_the_exact_fraction_rounded_down_at_every_step(kind: str, interval: int) -> None:
    for total, warmup, last, (initial, final) in itertools.product(
        (13, 30), (0, 1, 6), (0, 1, 6), ((24, 5), (9, 0), (7, 7), (1000, 999))
    ):
        for step in range(total + 1):
            schedule = Schedule("", kind, total, warmup, last, initial, final, {}, interval)
            expected = oracle.budget(step, total, initial, final, warmup, last, kind, interval)
            assert _budget(schedule, step) == expected, (schedule, step)


@pytest.mark.parametrize(("unit", "target"), [(1, 0), (1, 3), (1_000, 2_000_000)])
def test_exact_budgets_lose_nothing_to_rounding(unit: int, target: int) -> None:
    """At whole tenths of the way 1000 u^3 is whole; in floats 1000 * 0.7^3 falls short of 343."""
    warmup, tenth = 100_000, 100_000
    total = warmup + 10 * tenth + 100_000
    schedule = Schedule("", "cubic", total, warmup, 100_000, target + 1_000 * unit, target, {})
    for passed in range(11):
        expected = target + unit * (10 - passed) ** 3
        assert _budget(schedule, warmup + tenth * passed) == expected


@pytest.mark.parametrize("kind", ["cubic", "linear", "constant"])
def test_schedule_without_steps_between_its_ends_goes_to_the_target_at_once(kind: str) -> None:
    schedule = Schedule("", kind, 10, 6, 4, 20, 8, {})
    assert [_budget(schedule, step) for step in range(11)] == [20] * 6 + [8] * 5
