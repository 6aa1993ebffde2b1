"""task.json: what a task describes of itself is what is read of it, by its kind."""

import json
from pathlib import Path
from typing import Any

import pytest

from lora2 import UserError
from lora2.data.tasks.image_task import ImageTask
from lora2.data.tasks.labelled_task import LabelledTextTask
from lora2.data.tasks.tagged_task import TaggedTask
from lora2.data.tasks.task import Task
from lora2.data.tasks.writing_task import WritingTask
from lora2.training.on_disk.run_files import check_task

SETS: Any = {"train": [], "validation": {"validation": []}, "name": "mine"}
LABELS: Any = {**SETS, "main_metric": "accuracy", "metrics": ("accuracy",), "label_column": "label"}
CLASSES: Any = {**LABELS, "label_names": ("no", "yes")}
TASKS: dict[str, Task] = {
    "classes": LabelledTextTask(**CLASSES, text_columns=("a", "b"), kind="classification"),
    "values": LabelledTextTask(**LABELS, label_names=(), text_columns=("a",), kind="regression"),
    "tags": TaggedTask(**CLASSES, rows_of="words", text_column="words"),
    "images": ImageTask(**CLASSES, image_column="image"),
    "texts": WritingTask(
        **SETS, main_metric="exact_match", metrics=("exact_match",), form="text",
        conversational=False, system=None, columns=("text",),
    ),
}  # fmt: skip


def file_of(name: str, /, **changes: Any) -> dict[str, Any]:
    task = TASKS[name]
    content = json.loads(json.dumps(task.describe() | {"main_metric": task.main_metric} | changes))
    return {key: value for key, value in content.items() if value != "removed"}


@pytest.mark.parametrize("name", TASKS)
def test_what_a_task_describes_is_accepted(name: str, tmp_path: Path) -> None:
    check_task(file_of(name), tmp_path / "task.json")


@pytest.mark.parametrize(
    ("name", "key"), [(n, key) for n, t in TASKS.items() for key in t.described]
)
def test_each_key_is_needed(name: str, key: str, tmp_path: Path) -> None:
    content = file_of(name, **{key: "removed"})
    if key in ("kind", "form"):
        # Without them it is a task of another kind.
        key = "(kind|text_columns)"
    with pytest.raises(UserError, match=f"lacks the key '{key}'"):
        check_task(content, tmp_path / "task.json")


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("classes", {"kind": "ranking"}, "kind is 'ranking'"),
        ("classes", {"metrics": ["f2"]}, "metrics has 'f2', and must have names among accuracy"),
        (
            "tags",
            {"metrics": ["mcc"]},
            "metrics has 'mcc', and must have names among f1, precision",
        ),
        ("classes", {"text_columns": ["a", "b", "c"]}, "must be a list of one or two names"),
        ("tags", {"text_columns": ["a", "b"]}, "text_columns must be a list of one name"),
        ("images", {"label_names": []}, "label_names must name the classes"),
        ("images", {"image_column": 3}, "image_column is 3, and must be a text"),
        ("texts", {"form": "verse"}, "form is 'verse'"),
    ],
)
def test_a_damaged_value_is_named(
    name: str, changes: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        check_task(file_of(name, **changes), tmp_path / "task.json")
    assert says in str(caught.value)
