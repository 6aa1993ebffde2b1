"""`lora2 train --resume` with another number of processes than the run was started with."""

from pathlib import Path

import pytest

from command_line import refused, train
from lora2.errors import UserError
from lora2.support.checked_files import read_json
from lora2.training.options.arguments import RunSettings
from lora2.training.trainer.joint_batch import with_joint_batch


def accumulation(started_with: int, processes: int, steps: int | None = None) -> int:
    given = {} if steps is None else {"gradient_accumulation_steps": steps}
    settings = RunSettings.from_options({"learning_rate": 1e-3, **given})
    resumed = with_joint_batch(settings, started_with, processes)
    assert resumed.training["learning_rate"] == 1e-3
    return resumed.training.get("gradient_accumulation_steps", 1)


@pytest.mark.parametrize(
    ("started_with", "processes", "steps", "expected"),
    [
        (2, 2, None, 1),
        (2, 1, None, 2),
        (4, 2, 3, 6),
        (2, 4, 2, 1),
        (1, 4, 8, 2),
        (6, 4, 2, 3),
        (2, 3, 3, 2),
    ],
)
def test_the_rows_of_an_optimizer_step_stay(
    started_with: int, processes: int, steps: int | None, expected: int
) -> None:
    assert accumulation(started_with, processes, steps) == expected


@pytest.mark.parametrize(
    ("started_with", "processes", "steps", "choices"),
    [(2, 4, None, "1 or 2"), (2, 4, 3, "1, 2, 3 or 6"), (1, 2, None, "1"), (3, 2, None, "1 or 3")],
)
def test_processes_that_cannot_share_the_rows_are_refused(
    started_with: int, processes: int, steps: int | None, choices: str
) -> None:
    with pytest.raises(UserError, match=rf"resume: .* start it with {choices} processes"):
        accumulation(started_with, processes, steps)


@pytest.mark.parametrize("by", ["option", "launcher"])
def test_deepspeed_resumes_with_the_same_number_of_processes_alone(
    by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"deepspeed": {"zero_optimization": {"stage": 2}}} if by == "option" else {}
    if by == "launcher":
        monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    settings = RunSettings.from_options(options)
    assert with_joint_batch(settings, 2, 2) == settings
    with pytest.raises(UserError, match="started with 2 processes, and DeepSpeed resumes with"):
        with_joint_batch(settings, 2, 4)


@pytest.mark.slow
def test_a_run_knows_how_many_processes_it_was_started_with(
    tiny_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert train(tiny_model, tmp_path / "run") == 0
    assert read_json(tmp_path / "run" / "environment.json", "")["processes"] == 1
    (tmp_path / "run" / "summary.json").unlink()
    monkeypatch.setenv("WORLD_SIZE", "2")
    said = refused(capsys, "train", "--output_dir", tmp_path / "run", "--resume")
    assert "started with 1 processes and 1 micro-batches" in said
