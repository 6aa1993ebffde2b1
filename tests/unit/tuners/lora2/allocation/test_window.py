"""When pruning begins and ends by default: the later, the more is pruned."""

import dataclasses
from pathlib import Path

import pytest

from lora2 import Lora2Config, RankAllocator
from lora2.errors import UserError
from lora2.tuners.lora2.allocation.budget import plan_budget
from lora2.tuners.lora2.matrix_size import MatrixSize
from unit.pruning import pruned_model

WINDOWS = [
    ({}, (0.3, 0.3)),
    ({"target_r": None}, (0.3, 0.3)),
    ({"target_r": 4}, (0.3, 0.3)),
    ({"target_r": 3.9}, (0.5, 0.2)),
    ({"target_r": 1}, (0.5, 0.2)),
    # What is written counts, and its neighbour is what it is for any budget.
    ({"target_r": 1, "tinit": 0.6}, (0.6, 0.3)),
    ({"target_r": 1, "tfinal": 0.2}, (0.3, 0.2)),
    ({"target_r": 1, "tinit": 0, "tfinal": 0}, (0, 0)),
    ({"target_r": 4, "tinit": 20, "tfinal": 10}, (20, 10)),
]


@pytest.mark.parametrize(("fields", "window"), WINDOWS, ids=lambda value: str(value))
def test_window_is_late_where_most_is_pruned(
    fields: dict[str, float | None], window: tuple[float, float]
) -> None:
    config = Lora2Config(k=8, init_r=8, **fields)

    assert config.window == window
    assert (config.to_dict()["tinit"], config.to_dict()["tfinal"]) == window


def test_default_window_follows_a_later_change_of_the_target() -> None:
    config = dataclasses.replace(Lora2Config(k=8, init_r=8, target_r=4), target_r=1)

    assert config == Lora2Config(k=8, init_r=8, target_r=1)
    assert config.window == (0.5, 0.2)


def test_a_config_that_was_saved_loads_as_an_equal_one(tmp_path: Path) -> None:
    config = Lora2Config(k=4, init_r=4, target_r=1)
    config.save_pretrained(str(tmp_path))

    assert Lora2Config.from_pretrained(str(tmp_path)) == config
    assert config != Lora2Config(k=4, init_r=4, target_r=1, tfinal=0.3)


@pytest.mark.parametrize(
    ("target", "steps"),
    # The first step that prunes, and the last: of 504, and of 10.
    [(4, {504: (151, 353), 10: (3, 7)}), (1, {504: (252, 403), 10: (5, 8)})],
)
def test_schedule_prunes_within_the_default_window(
    target: float, steps: dict[int, tuple[int, int]]
) -> None:
    config = Lora2Config(k=8, init_r=8, target_r=target)
    matrices = [MatrixSize(768, 8, 8)] * 36

    for total, (first, last) in steps.items():
        plan = plan_budget(config, matrices, total)
        assert (plan.warmup_steps, plan.last_change) == (first, last)
        assert plan.at(first) == plan.initial > plan.at(first + 1)
        assert plan.at((first + last) // 2) > plan.at(last) == plan.at(total) == plan.target


@pytest.mark.parametrize("steps", range(1, 12))
@pytest.mark.parametrize("target", [4, 1])
@pytest.mark.parametrize("window", [{}, {"tinit": 0.6, "tfinal": 0.3}], ids=["default", "own"])
def test_fractions_of_few_steps_leave_one_to_prune_in(
    window: dict[str, float], target: float, steps: int
) -> None:
    config = Lora2Config(k=8, init_r=8, target_r=target, **window)

    plan = plan_budget(config, [MatrixSize(768, 8, 8)] * 36, steps)

    assert plan.warmup_steps < plan.last_change <= steps
    assert plan.at(steps) == plan.target < plan.initial


def test_saved_config_holds_its_window(tmp_path) -> None:
    Lora2Config(k=8, init_r=8, target_r=1).save_pretrained(tmp_path)

    saved = Lora2Config.from_pretrained(tmp_path)

    assert (saved.tinit, saved.tfinal) == (0.5, 0.2)
    assert dataclasses.replace(saved, tinit=None, tfinal=None, target_r=4).window == (0.3, 0.3)


def test_window_without_a_step_is_refused() -> None:
    with pytest.raises(UserError, match=r"tinit=0\.7 and tfinal=0\.3 leave no steps"):
        Lora2Config(k=8, init_r=8, target_r=1, tinit=0.7)


@pytest.mark.parametrize("tinit", [0, 0.1, 0.3])
@pytest.mark.parametrize("total", [1, 2, 3])
def test_fractions_leave_a_step_to_prune_in(tinit: float, total: int) -> None:
    allocator = RankAllocator(pruned_model(tinit=tinit, tfinal=0.6), total)
    assert allocator.plan.warmup_steps + allocator.plan.final_steps < total
