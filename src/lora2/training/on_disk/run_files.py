"""The keys that the files of a run must have, and their types."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, get_args, get_type_hints

from lora2.data.tasks.digests import DIGESTS
from lora2.data.tasks.image_task import ImageTask
from lora2.data.tasks.labelled_task import Kind, LabelledTextTask
from lora2.data.tasks.metric_names import TAG_METRICS
from lora2.data.tasks.tagged_task import TaggedTask
from lora2.data.tasks.task import Task
from lora2.data.tasks.writing_task import WritingTask
from lora2.errors import UserError
from lora2.support.checked_files import check_fields
from lora2.training.on_disk.start_adapter import START
from lora2.training.options.arguments import OPTION_GROUPS
from lora2.training.scores.metrics import METRICS

_DIGESTS = {DIGESTS: dict[str, str], START: str}

DAMAGED = "restore it from a copy, or train the run again"
"""The advice for a file of a run that cannot be read."""

# Options by which another run would be made if they were left at their defaults.
_NEEDED = (
    "objective", "method", "task", "train_file", "dataset", "text_columns", "label_column", "kind",
    "max_length", "max_new_tokens", "model", "dtype", "k", "init_r", "target_r", "lora_alpha",
    "target_modules", "orthogonality", "tinit", "tfinal",
)  # fmt: skip
# Options that a run needs in addition, to be resumed.
_NEEDED_TO_RESUME = (
    "learning_rate", "num_train_epochs", "per_device_train_batch_size", "seed",
)  # fmt: skip


class _Labelled(NamedTuple):
    """The limits on values in a task.json with labels, beyond the types of its keys.

    Attributes:
        task: the class of the task, which has the types.
        metrics: the names of its metrics.
        columns: how many columns of texts it may name.
    """

    task: type[Task]
    metrics: Collection[str]
    columns: int = 0


_LABELLED = {
    **dict.fromkeys(get_args(Kind), _Labelled(LabelledTextTask, METRICS, columns=2)),
    TaggedTask.kind: _Labelled(TaggedTask, TAG_METRICS, columns=1),
    ImageTask.kind: _Labelled(ImageTask, METRICS),
}


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
    if "form" in task:
        _check_keys(task, WritingTask, path)
        return
    # An unknown kind is checked with the types of a labelled text task, which refuse it.
    labelled = _LABELLED.get(str(task.get("kind")), _LABELLED["classification"])
    _check_keys(task, labelled.task, path)
    unknown = [name for name in task["metrics"] if name not in labelled.metrics]
    if unknown:
        raise UserError(
            f"{path}: metrics has {unknown[0]!r}, and must have names among "
            f"{', '.join(labelled.metrics)}; {DAMAGED}."
        )
    if labelled.columns and not 1 <= len(task["text_columns"]) <= labelled.columns:
        wanted = "one name" if labelled.columns == 1 else "one or two names"
        raise UserError(f"{path}: text_columns must be a list of {wanted}; {DAMAGED}.")
    if task["kind"] != "regression" and not task["label_names"]:
        raise UserError(f"{path}: label_names must name the classes; {DAMAGED}.")


def _check_keys(task: Mapping[str, Any], kind: type[Task], path: Path) -> None:
    # The run adds its main metric, under the name that it has in the records.
    types = {**Task.described, "main_metric": str, **kind.described}
    # Older versions wrote none of these.
    types |= {key: kind for key, kind in _DIGESTS.items() if key in task}
    check_fields(task, types, path, DAMAGED)
