"""Loading the GLUE tasks: from the official files or from the hub.

The files are UTF-8, tab separated, without quoting: a `"` is an ordinary character.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lora2.data.public.glue import GLUE_TASKS, GlueTask
from lora2.data.tables.hub import load_from_hub
from lora2.data.tasks.labelled_task import LabelledTextTask, build_dataset
from lora2.data.tasks.task import LABEL_COLUMN
from lora2.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

HUB_NAME = "nyu-mll/glue"

# MNLI has this label for a row whose annotators did not agree.
_NO_LABEL = "-"


def load_glue_folder(name: str, data_dir: Path) -> LabelledTextTask:
    """Read task `name` from `data_dir`: its own folder, or the one that holds `CoLA`, `RTE`, ...

    Raises:
        UserError: a missing folder or file, or a line that does not fit the layout.
    """
    task = GLUE_TASKS[name]
    folder = _find_folder(task, data_dir)
    validation = {
        set_name: _read_file(task, _find_file(folder, files))
        for set_name, files in task.validation_files
    }
    return _task_data(name, _read_file(task, _find_file(folder, task.train_files)), validation)


def load_glue_from_hub(name: str) -> LabelledTextTask:
    """Load task `name` from the hub dataset `nyu-mll/glue`.

    Raises:
        UserError: the hub cannot be reached and its cache does not hold the task.
    """
    task = GLUE_TASKS[name]
    splits = load_from_hub(HUB_NAME, name)

    def build(split: str) -> Dataset:
        rows = splits[split]
        labels = list(rows[LABEL_COLUMN])
        return build_dataset([list(rows[column]) for column in task.names], labels, task.kind)

    validation = {set_name: build(split) for set_name, split in task.hub_splits}
    return _task_data(name, build("train"), validation)


def _task_data(name: str, train: Dataset, validation: dict[str, Dataset]) -> LabelledTextTask:
    task = GLUE_TASKS[name]
    return LabelledTextTask(
        name=name,
        text_columns=task.names,
        label_column=LABEL_COLUMN,
        kind=task.kind,
        label_names=task.label_names,
        train=train,
        validation=validation,
        metrics=task.metrics,
        main_metric=task.metrics[0],
    )


def _find_folder(task: GlueTask, data_dir: Path) -> Path:
    if not data_dir.is_dir():
        raise UserError(f"data_dir: {data_dir} is not a folder; give the folder of the GLUE files.")
    for folder in (data_dir / task.folder, data_dir):
        if any((folder / file).is_file() for file in task.train_files):
            return folder
    raise UserError(
        f"data_dir: there is no {task.folder}/{task.train_files[0]} nor {task.train_files[0]} in "
        f"{data_dir}; give the folder that holds {task.folder}, or {task.folder} itself."
    )


def _find_file(folder: Path, files: Sequence[str]) -> Path:
    found = next((folder / file for file in files if (folder / file).is_file()), None)
    if found is None:
        raise UserError(f"data_dir: {folder} lacks the file {' or '.join(files)}; add it.")
    return found


def _read_file(task: GlueTask, path: Path) -> Dataset:
    # newline="\n": texts may hold a lone carriage return or other characters that Python would
    # take for line ends. utf-8-sig: MRPC's files start with a byte-order mark.
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            lines = [line.rstrip("\r\n") for line in file]
    except UnicodeDecodeError as error:
        raise UserError(f"data_dir: {path} is not UTF-8 text; download it again.") from error
    *columns, label_column = _positions(task, lines, path)
    width = max(*columns, label_column) + 1
    texts: list[list[str]] = [[] for _ in columns]
    labels: list[int | float] = []
    short = unlabelled = 0
    for number, line in enumerate(lines, start=1):
        if not line or (number == 1 and task.has_header):
            continue
        fields = line.split("\t")
        if len(fields) < width:
            if not task.skips_short_lines:
                raise UserError(
                    f"data_dir: {path} has {len(fields)} columns in line {number} where at least "
                    f"{width} are needed; download the file again."
                )
            short += 1
        elif fields[label_column] == _NO_LABEL:
            unlabelled += 1
        else:
            labels.append(_label(task, fields[label_column], path, number))
            for column, position in zip(texts, columns, strict=True):
                column.append(fields[position])
    if short:
        logger.warning("Skipped %d broken lines (too few columns) of %s.", short, path)
    if unlabelled:
        logger.info("Skipped %d lines without a label of %s.", unlabelled, path)
    if not labels:
        raise UserError(f"data_dir: {path} is empty, it has no labelled row; download it again.")
    return build_dataset(texts, labels, task.kind)


def _positions(task: GlueTask, lines: Sequence[str], path: Path) -> list[int]:
    """Return the positions of the text columns, then of the label column."""
    header = lines[0].split("\t") if lines and task.has_header else []
    positions = []
    for column in (*task.columns, task.label):
        if isinstance(column, str):
            if column not in header:
                raise UserError(
                    f"data_dir: {path} has no column {column!r} (its first line names "
                    f"{', '.join(header) or 'nothing'}); give the official file."
                )
            column = header.index(column)
        positions.append(column)
    return positions


def _label(task: GlueTask, text: str, path: Path, number: int) -> int | float:
    spellings = task.labels or task.label_names
    if text in spellings:
        return spellings.index(text)
    if not spellings:
        try:
            score = float(text)
        except ValueError:
            score = math.nan
        if math.isfinite(score):
            return score
    raise UserError(
        f"data_dir: {path} has the label {text!r} in line {number} where "
        f"{', '.join(spellings) or 'a number'} is expected; give the official file."
    )
