"""The objectives, and the tasks that have names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from lora2.data.loading.classification import TASK_NAMES
from lora2.data.loading.images import IMAGE_TASK_NAMES
from lora2.data.loading.preferences import PREFERENCE_TASK_NAMES
from lora2.data.loading.tags import TAGGED_TASK_NAMES
from lora2.data.loading.texts import TEXT_TASK_NAMES

ObjectiveName = Literal[
    "classification", "sft", "dpo", "token-classification", "image-classification"
]  # fmt: skip


class NamedTasks(NamedTuple):
    """The named tasks of an objective, and the one that is taken where none is named, if any."""

    names: Sequence[str] = ()
    default: str | None = None


TASKS: dict[ObjectiveName, NamedTasks] = {
    "classification": NamedTasks(TASK_NAMES, "agreement"),
    "sft": NamedTasks(TEXT_TASK_NAMES, "rewrite"),
    "dpo": NamedTasks(PREFERENCE_TASK_NAMES, "preferences"),
    "token-classification": NamedTasks(TAGGED_TASK_NAMES, TAGGED_TASK_NAMES[0]),
    "image-classification": NamedTasks(IMAGE_TASK_NAMES, IMAGE_TASK_NAMES[0]),
}
"""By objective; the first is that of the user's own data, unless another is asked for."""
