"""Digests of the rows of a task, by which a run notices that a file has changed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from datasets import Dataset

    from lora2.data.tasks.task import Task

DIGESTS = "rows"
"""The key of task.json that holds what `digests_of` returns."""
_DIGITS = 16
_IMAGE = {"bytes", "path"}


def digests_of(task: Task) -> dict[str, str]:
    """Return hexadecimal digits by set: "train" and the names of the validation sets."""
    return {name: _digest(rows) for name, rows in task.sets.items()}


def changed_set(task: Task, stored: Mapping[str, Any], names: Iterable[str]) -> str | None:
    """Return which of these sets has other rows than a task.json is of; None if all are the same.

    A file of an older version has no digests, and is taken for one of the same rows.
    """
    digests = stored.get(DIGESTS, {})
    for name in names:
        if name in digests and digests[name] != _digest(task.sets[name]):
            return name
    return None


def _digest(rows: Dataset) -> str:
    found = hashlib.sha256()
    for row in rows:
        cells = {name: _content(value) for name, value in row.items()}
        found.update(json.dumps(cells, sort_keys=True, default=repr).encode())
    return found.hexdigest()[:_DIGITS]


def _content(value: Any) -> Any:
    """Return a cell; of an image what stands for its content, wherever its file is."""
    if not isinstance(value, dict) or set(value) != _IMAGE:
        return value
    content = value["bytes"]
    content = Path(value["path"]).read_bytes() if content is None else content
    return hashlib.sha256(content).hexdigest()
