"""Datasets from the Hugging Face hub (or its cache, when offline)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lora2.data.tables.table import DataTable
from lora2.errors import UserError
from lora2.support.error_text import first_line_of
from lora2.support.extras import require

# "test" is not among them: a test set is not to be looked at while training.
_VALIDATION_SPLITS = ("validation", "valid", "dev")


def load_from_hub(name: str, configuration: str | None = None) -> Any:
    """Return all splits of a hub dataset, as a `datasets.DatasetDict`.

    name: of the hub, or a folder.

    Raises:
        UserError: it does not exist, has no such configuration, cannot be reached, or has a file
            that cannot be read.
    """
    datasets = require("datasets", extra="train")
    try:
        return datasets.load_dataset(name, configuration)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        of = f" (configuration {configuration})" if configuration else ""
        where, advice = "from the hub", "check the name and the network, or give local files"
        if Path(name).is_dir():
            where, advice = "from that folder", "correct its files, or write --train_file"
        reason = _reason(error, datasets)
        raise UserError(
            f"dataset: {name}{of} could not be loaded {where} ({reason}); {advice}."
        ) from error


def _reason(error: Exception, datasets: Any) -> str:
    """Return why a dataset cannot be loaded, on one line."""
    if not isinstance(error, datasets.exceptions.DatasetGenerationError) or not error.__cause__:
        return first_line_of(error)
    # It says that a file cannot be read, and its cause why.
    reason = first_line_of(error.__cause__)
    last = str(error.__cause__).rstrip().rpartition("\n")[2]
    return f"{reason} {last}" if last.startswith("because") else reason


def hub_tables(name: str, configuration: str | None) -> tuple[DataTable, DataTable | None]:
    """Return the training table of a hub dataset and its validation table, if it has one.

    Raises:
        UserError: it cannot be loaded or has no split `train`.
    """
    splits = load_from_hub(name, configuration)
    if "train" not in splits:
        raise UserError(
            f"dataset: {name} has no split 'train' (its splits are {', '.join(splits)}); choose "
            f"another dataset."
        )
    validation = next((split for split in _VALIDATION_SPLITS if split in splits), None)
    return _hub_table(name, "train", splits["train"]), (
        _hub_table(name, validation, splits[validation]) if validation else None
    )


def _hub_table(name: str, split: str, dataset: Any) -> DataTable:
    datasets = require("datasets", extra="train")
    class_names = {
        column: names
        for column, feature in dataset.features.items()
        if (names := _names_of_classes(feature, datasets)) is not None
    }

    def read_column(column: str) -> list[object]:
        if isinstance(dataset.features[column], datasets.Image):
            # A picture is kept as it is stored, since it takes far more memory once it is decoded.
            stored = dataset.select_columns([column])
            return list(stored.cast_column(column, datasets.Image(decode=False))[column])
        values = list(dataset[column])
        if column not in class_names:
            return values
        return [_named(value, class_names[column]) for value in values]

    columns = tuple(dataset.column_names)
    return DataTable(f"{name} ({split})", columns, len(dataset), read_column, class_names)


def _names_of_classes(feature: Any, datasets: Any) -> tuple[str, ...] | None:
    """Return the names of a column's classes, or of those in its lists; None where it has none."""
    feature = getattr(feature, "feature", feature)
    return tuple(feature.names) if isinstance(feature, datasets.ClassLabel) else None


def _named(value: Any, names: tuple[str, ...]) -> object:
    if isinstance(value, list):
        return [_named(each, names) for each in value]
    # The hub marks a missing class by -1.
    return None if value is None or value < 0 else names[value]
