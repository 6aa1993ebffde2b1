"""Whether the labels of a run can be smoothed."""

from __future__ import annotations

from lora2.data.tasks.task import Task
from lora2.errors import UserError


def check_has_classes(smoothing: float, task: Task) -> None:
    """Check that labels which are to be smoothed are classes.

    Raises:
        UserError: they are numbers.
    """
    if smoothing and getattr(task, "kind", None) == "regression":
        raise UserError(
            f"label_smoothing_factor={smoothing} is for classes, and the labels of {task.name} are "
            "numbers; leave it out."
        )
