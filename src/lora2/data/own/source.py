"""The options that name the user's own data, in files or in a dataset on a hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypedDict

from lora2.data.tables.files import read_table
from lora2.data.tables.hub import hub_tables
from lora2.data.tables.table import DataTable
from lora2.errors import UserError


class OwnSource(TypedDict, total=False):
    """The arguments with which all loaders take the user's own data; None is the same as none.

    Attributes:
        train_file: a CSV, TSV, JSON, JSON lines or Parquet file; of images, a folder as well.
        validation_file: likewise; without it a tenth of the training rows is split off.
        dataset: name of a hub dataset, instead of files.
        dataset_config: its configuration, if it has several.
    """

    train_file: Path | str | None
    validation_file: Path | str | None
    dataset: str | None
    dataset_config: str | None


def file_name(path: Path | str) -> str:
    """Return what the data of a file are called, or of a folder."""
    path = Path(path)
    if not path.name.strip("."):
        # `.` and `..` are no names.
        path = path.resolve()
    if path.is_dir():
        return path.name
    return path.stem.strip(".") or path.suffix.strip(".")


def dataset_name(dataset: str) -> str:
    """Return what a dataset is called: its name on the hub, or that of its local folder."""
    return file_name(dataset) if Path(dataset).is_dir() else dataset


def own_tables(
    source: OwnSource, read: Callable[[Path | str, str], DataTable] = read_table
) -> tuple[str, DataTable, DataTable | None]:
    """Return the name, the training table and the validation table of the user's data.

    read: reads a file, given its path and the option that named it.

    Raises:
        UserError: options that contradict each other, or a table that cannot be read.
    """
    train_file, validation_file = source.get("train_file"), source.get("validation_file")
    dataset, dataset_config = source.get("dataset"), source.get("dataset_config")
    if dataset is not None:
        files = [f for f in (train_file, validation_file) if f is not None]
        if files:
            raise UserError(
                f"dataset: {dataset} does not go with the file {files[0]}; leave one of them out."
            )
        return (dataset_name(dataset), *hub_tables(dataset, dataset_config))
    if train_file is None:
        raise UserError(
            "train_file: there is no training data; name a training file (CSV, TSV, JSON lines or "
            "Parquet), a hub dataset, or a task."
        )
    if dataset_config is not None:
        raise UserError(
            f"dataset_config: {dataset_config!r} belongs to a hub dataset; leave it out for files."
        )
    validation = None if validation_file is None else read(validation_file, "validation_file")
    return file_name(train_file), read(train_file, "train_file"), validation
