"""What tells the rows of a task from others, so that a resumed run notices a changed file."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

    from lora2.data.task import Task

_DIGITS = 16


def digests_of(task: Task) -> dict[str, str]:
    """Return hexadecimal digits by set: "train" and the names of the validation sets."""
    sets = {"train": task.train, **task.validation}
    return {name: _digest(rows) for name, rows in sets.items()}


def _digest(rows: Dataset) -> str:
    found = hashlib.sha256()
    for row in rows:
        found.update(json.dumps(row, sort_keys=True, default=_stated).encode())
    return found.hexdigest()[:_DIGITS]


def _stated(value: Any) -> str:
    """Return what stands for a value that JSON has no form for, such as the content of an image."""
    return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else repr(value)
