"""The user's own data, from files or a hub dataset, as a LabelledTextTask."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lora2.data.own.columns import (
    choose_text_columns,
    encode_labels,
    read_labels,
    read_texts,
    sorted_label_names,
)
from lora2.data.own.splitting import split_off_validation
from lora2.data.tables.files import read_table
from lora2.data.tables.table import DataTable
from lora2.data.tasks.labelled_task import Kind, LabelledTextTask, build_dataset
from lora2.data.tasks.metric_names import CLASS_METRICS, NUMBER_METRICS
from lora2.errors import UserError
from lora2.support.shown_values import as_shown

if TYPE_CHECKING:
    from datasets import Dataset

_METRICS: dict[Kind, tuple[str, ...]] = {
    "classification": CLASS_METRICS,
    "regression": NUMBER_METRICS,
}


def task_from_tables(
    name: str,
    train: DataTable,
    validation: DataTable | None,
    *,
    text_columns: Sequence[str] | None,
    label_column: str,
    kind: Kind,
    data_seed: int,
) -> LabelledTextTask:
    """Check the tables and make a task of them; without `validation`, split off a tenth of `train`.

    Raises:
        UserError: columns, texts or labels that cannot be used.
    """
    columns = choose_text_columns(train, text_columns)
    if label_column in columns:
        raise UserError(
            f"label_column: {label_column!r} is also a text column; name another column."
        )
    texts = read_texts(train, columns)
    labels = read_labels(train, label_column, kind)
    label_names = label_names_of(train, label_column, labels, kind)
    train_set = _encoded(train, texts, label_column, labels, kind, label_names)
    if validation is None:
        classes = [{label} for label in labels] if kind == "classification" else None
        train_set, validation_set = split_off_validation(
            train_set, train.source, data_seed, classes
        )
    else:
        validation_set = _labelled(validation, columns, label_column, kind, label_names)
    return LabelledTextTask(
        name=name,
        text_columns=columns,
        label_column=label_column,
        kind=kind,
        label_names=label_names,
        train=train_set,
        validation={"validation": validation_set},
        metrics=_METRICS[kind],
        main_metric=_METRICS[kind][0],
    )


def load_labelled(
    path: Path | str,
    *,
    text_columns: Sequence[str],
    label_column: str,
    kind: Kind,
    label_names: Sequence[str],
) -> Dataset:
    """Read another labelled file for a task that is already known (`lora2 evaluate`).

    Raises:
        UserError: as `task_from_tables`, or a label that is not in `label_names`.
    """
    return _labelled(read_table(path), tuple(text_columns), label_column, kind, label_names)


def texts_of(table: DataTable, text_columns: Sequence[str]) -> Dataset:
    """Return the texts of a table that needs no labels.

    Raises:
        UserError: a column that cannot be used.
    """
    return build_dataset(read_texts(table, text_columns), labels=None)


def label_names_of(
    table: DataTable, column: str, labels: Sequence[str | float], kind: Kind
) -> tuple[str, ...]:
    """Return the names of the classes that a column has; () for regression.

    Raises:
        UserError: all labels are the same.
    """
    if len(set(labels)) < 2:
        raise UserError(
            f"label_column: column {column!r} of {table.source} has the single value "
            f"{as_shown(labels[0])}, so there is nothing to learn; name a column with at "
            "least two values."
        )
    if kind == "regression":
        return ()
    return table.class_names.get(column) or sorted_label_names([str(label) for label in labels])


def _labelled(
    table: DataTable,
    text_columns: tuple[str, ...],
    label_column: str,
    kind: Kind,
    label_names: Sequence[str],
) -> Dataset:
    texts = read_texts(table, text_columns)
    labels = read_labels(table, label_column, kind, is_learnt=True)
    return _encoded(table, texts, label_column, labels, kind, label_names)


def _encoded(
    table: DataTable,
    texts: list[list[str]],
    label_column: str,
    labels: Sequence[str | float],
    kind: Kind,
    label_names: Sequence[str],
) -> Dataset:
    if kind == "regression":
        return build_dataset(texts, [float(label) for label in labels], kind)
    names = [str(label) for label in labels]
    return build_dataset(texts, encode_labels(table, label_column, names, label_names), kind)
