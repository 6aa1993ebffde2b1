"""The objectives, and the tasks that have names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

from lora2.data.named_tasks import task_names

ObjectiveName = Literal[
    "classification", "sft", "dpo", "token-classification", "image-classification"
]  # fmt: skip


class NamedTasks(NamedTuple):
    """The named tasks of an objective."""

    names: Sequence[str] = ()

    @property
    def default(self) -> str | None:
        """The one that is taken where none is named; None if there is none."""
        return self.names[0] if self.names else None


TASKS: dict[ObjectiveName, NamedTasks] = {
    name: NamedTasks(task_names(name)) for name in get_args(ObjectiveName)
}
"""By objective; the first is that of the user's own data, unless another is asked for."""
