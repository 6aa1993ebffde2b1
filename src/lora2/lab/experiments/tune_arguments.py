"""The options of `lora2 tune` as a typed dataclass, checked, and the experiments that they name."""

from __future__ import annotations

from dataclasses import dataclass, field

from lora2.errors import UserError
from lora2.lab.experiments.presets.registry import PRESETS
from lora2.lab.experiments.presets.task_suite import TaskSuite
from lora2.lab.experiments.setting import Experiment

ALL = "all"
"""Stands for every setting of a preset."""

_TUNED = [preset.name for preset in PRESETS.values() if preset.suite]


@dataclass
class TuneArguments:
    """What is tuned."""

    task: str | None = field(
        default=None,
        metadata={"help": "One of the preset's tasks, such as cola or rewrite; all unless given."},
    )
    preset: str = field(
        default="small", metadata={"help": f"Whose settings: {' or '.join(_TUNED)}."}
    )
    trials: int = field(
        default=3, metadata={"help": "Learning rates to try for each setting and task."}
    )

    def check(self) -> None:
        """Check the preset, the task and the number of trials.

        Raises:
            UserError: one of them is invalid.
        """
        if self.preset not in _TUNED:
            raise UserError(f"preset: {self.preset!r} is none of {', '.join(_TUNED)}.")
        tasks = _suite_of(self.preset).tasks
        if self.task not in (None, *tasks):
            raise UserError(
                f"task: {self.task!r} is none of {', '.join(tasks)} (of the preset {self.preset})."
            )
        if self.trials < 1:
            raise UserError(f"trials={self.trials} must be at least 1.")


def chosen_experiments(method: str, task: str | None, preset: str = "small") -> list[Experiment]:
    """Return the experiments of a method, or of one of its settings, on a task or on all.

    Raises:
        UserError: no method or setting of that name is in the preset.
    """
    tuned = PRESETS[preset].tuned
    settings = [s for s in tuned if method in (ALL, s.method, s.key)]
    if not settings:
        known = [
            *dict.fromkeys(s.method for s in tuned),
            *(s.key for s in tuned),
        ]
        raise UserError(f"{method!r} is none of {', '.join(dict.fromkeys(known))}, {ALL}.")
    return [each for each in _suite_of(preset).experiments(settings) if task in (None, each.task)]


def _suite_of(preset: str) -> TaskSuite:
    """Return the model and tasks of a preset with learning rates to search."""
    suite = PRESETS[preset].suite
    assert suite is not None
    return suite
