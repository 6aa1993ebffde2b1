"""One entry to all data of images: digits, or the user's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from lora2.data.builtin.digits import NEW, as_png, digits_of, split_rows
from lora2.data.named_tasks import task_names
from lora2.data.own.columns import encode_labels, read_labels
from lora2.data.own.image_folders import check_classes, has_no_names, read_image_table
from lora2.data.own.images import read_images
from lora2.data.own.labelled import label_names_of
from lora2.data.own.named_or_own import is_named
from lora2.data.own.source import OwnSource, own_tables
from lora2.data.own.splitting import split_off_validation
from lora2.data.tables.table import DataTable
from lora2.data.tasks.image_task import IMAGE_COLUMN, ImageTask, build_images
from lora2.data.tasks.metric_names import CLASS_METRICS
from lora2.data.tasks.task import LABEL_COLUMN
from lora2.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset


def load_image_task(
    task: str | None = None,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    data_seed: int = 0,
    **source: Unpack[OwnSource],
) -> ImageTask:
    """Load a named task, the user's images, or a hub dataset; digits if nothing is named.

    Args:
        task: the name of a task of image-classification.
        image_column: of a table; "image" unless given.
        label_column: of a table; "label" unless given.
        data_seed: splits off validation rows.
        source: of the user's own data, as `OwnSource` says.

    Raises:
        UserError: options that contradict each other, or data that cannot be used.
    """
    own = {
        **source,
        "image_column": image_column,
        "label_column": label_column,
    }
    if is_named(task, task_names("image-classification"), "images", own):
        return _digits(data_seed)
    name, train, validation = own_tables(source, read_image_table)
    columns = image_column or IMAGE_COLUMN, label_column or LABEL_COLUMN
    if columns[0] == columns[1]:
        raise UserError(
            f"label_column: {columns[1]!r} is also the column of images; name another column."
        )
    check_classes(train, "train_file", least=2)
    labels = [str(label) for label in read_labels(train, columns[1], "classification")]
    label_names = label_names_of(train, columns[1], labels, "classification")
    train_set = _encoded(train, columns, labels, label_names)
    if validation is None:
        train_set, validation_set = split_off_validation(
            train_set, train.source, data_seed, [{label} for label in labels]
        )
    else:
        check_classes(validation, "validation_file")
        validation_set = _labelled(validation, columns_in(validation, *columns), label_names)
    return _task(name, train_set, validation_set, columns, label_names)


def load_image_rows(path: Path | str, task: Mapping[str, Any]) -> Dataset:
    """Read more images with classes for a task that is already known, by its description.

    Raises:
        UserError: a folder, file, image or class that cannot be used.
    """
    table = read_image_table(path)
    check_classes(table, "file")
    columns = columns_in(table, task["image_column"], task["label_column"])
    return _labelled(table, columns, task["label_names"])


def columns_in(table: DataTable, image_column: str, label_column: str) -> tuple[str, str]:
    """Return the columns of images and classes: those of a table, or the ones a folder has."""
    return (IMAGE_COLUMN, LABEL_COLUMN) if has_no_names(table) else (image_column, label_column)


def _labelled(table: DataTable, columns: tuple[str, str], label_names: Sequence[str]) -> Dataset:
    labels = [str(label) for label in read_labels(table, columns[1], "classification")]
    return _encoded(table, columns, labels, label_names)


def _encoded(
    table: DataTable,
    columns: tuple[str, str],
    labels: Sequence[str],
    label_names: Sequence[str],
) -> Dataset:
    # Classes are checked first, because reading the images takes longer.
    encoded = encode_labels(table, columns[1], labels, label_names)
    return build_images(read_images(table, columns[0]), encoded)


def _digits(data_seed: int) -> ImageTask:
    digits = digits_of(NEW)
    images, labels = [as_png(each) for each in digits.values], [NEW.index(n) for n in digits.names]
    train, validation = (
        build_images([images[row] for row in rows], [labels[row] for row in rows])
        for rows in split_rows(len(labels), data_seed)
    )
    return _task("digits", train, validation, (IMAGE_COLUMN, LABEL_COLUMN), NEW)


def _task(
    name: str,
    train: Dataset,
    validation: Dataset,
    columns: tuple[str, str],
    label_names: tuple[str, ...],
) -> ImageTask:
    return ImageTask(
        name=name,
        train=train,
        validation={"validation": validation},
        metrics=CLASS_METRICS,
        main_metric=CLASS_METRICS[0],
        image_column=columns[0],
        label_column=columns[1],
        label_names=label_names,
    )
