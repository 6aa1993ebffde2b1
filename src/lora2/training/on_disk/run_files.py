"""What the files of a run must hold: keys and their types, by file."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_type_hints

from lora2.data.tasks import image_task, tagged_task
from lora2.data.tasks.tagged_task import RowsOf
from lora2.data.tasks.task import Kind
from lora2.data.tasks.text_task import Form
from lora2.errors import UserError
from lora2.support.checked_files import check_fields
from lora2.training.options.arguments import OPTION_GROUPS
from lora2.training.scores.entity_metrics import ENTITY_METRICS
from lora2.training.scores.metrics import METRICS

DAMAGED = "restore it from a copy, or train the run again"
"""What to do about a file of a run that cannot be read."""

# Options by which another run would be made if they were left at their defaults.
_NEEDED = (
    "objective", "method", "task", "train_file", "dataset", "text_columns", "label_column", "kind",
    "max_length", "max_new_tokens", "model", "dtype", "k", "init_r", "target_r", "lora_alpha",
    "target_modules", "orthogonality", "tinit", "tfinal",
)  # fmt: skip
# What a run cannot be resumed without, either.
_NEEDED_TO_RESUME = (
    "learning_rate", "num_train_epochs", "per_device_train_batch_size", "seed",
)  # fmt: skip

_TASK = {"name": str, "validation_sets": list[str], "metrics": list[str], "main_metric": str}
_LABELS = {
    "kind": Kind,
    "text_columns": list[str],
    "label_column": str,
    "label_names": list[str],
}
_TAGS = {
    "rows_of": RowsOf,
    "text_columns": list[str],
    "label_column": str,
    "label_names": list[str],
}
_IMAGES = {"image_column": str, "label_column": str, "label_names": list[str]}
_OF_KINDS: Mapping[str, Mapping[str, Any]] = {tagged_task.KIND: _TAGS, image_task.KIND: _IMAGES}
_TEXTS = {"form": Form, "conversational": bool, "system": str | None, "columns": list[str]}


@functools.cache
def option_types() -> Mapping[str, Any]:
    """Return the type of each option of `lora2 train`, by name."""
    types: dict[str, Any] = {}
    for group in OPTION_GROUPS.values():
        hints = get_type_hints(group)
        for field in dataclasses.fields(group):
            hint = hints[field.name]
            # An option without a value is true, whatever its values are.
            types[field.name] = hint | bool if field.metadata.get("const") is True else hint
    return MappingProxyType(types)


def check_options(options: dict[str, Any], path: Path, *, resumes: bool = False) -> None:
    """Check that config.yaml holds the options that decide what a run is, each of its type.

    Raises:
        UserError: an option is missing or of another type.
    """
    for name in (*_NEEDED, *(_NEEDED_TO_RESUME if resumes else ())):
        check_fields(options, {name: object}, path, DAMAGED)
    check_fields(options, option_types(), path, DAMAGED, optional=True)


def check_task(task: dict[str, Any], path: Path) -> None:
    """Check that task.json holds what a command must know of the data.

    Raises:
        UserError: a key is missing or of another type.
    """
    fields: Mapping[str, Any]
    fields = _TEXTS if "form" in task else _OF_KINDS.get(str(task.get("kind")), _LABELS)
    check_fields(task, {**_TASK, **fields}, path, DAMAGED)
    if fields is _TEXTS:
        return
    known = ENTITY_METRICS if fields is _TAGS else METRICS
    unknown = [name for name in task["metrics"] if name not in known]
    if unknown:
        raise UserError(
            f"{path}: metrics has {unknown[0]!r}, and must have names among {', '.join(known)}; "
            f"{DAMAGED}."
        )
    most = 1 if fields is _TAGS else 2
    if not 1 <= len(task.get("text_columns", ["none"])) <= most:
        wanted = "one name" if most == 1 else "one or two names"
        raise UserError(f"{path}: text_columns must be a list of {wanted}; {DAMAGED}.")
    if task["kind"] != "regression" and not task["label_names"]:
        raise UserError(f"{path}: label_names must name the classes; {DAMAGED}.")
