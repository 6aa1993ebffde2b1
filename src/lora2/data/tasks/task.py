"""Tasks: what a run trains on and is measured by, ready to be tokenized, wherever it came from."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lora2.support.extras import require

if TYPE_CHECKING:
    from datasets import Dataset

Kind = Literal["classification", "regression"]

# Every Dataset of this package names its columns so, whatever the source called them.
TEXT_COLUMNS = ("text", "text_pair")
LABEL_COLUMN = "label"


def recorded_name(validation_set: str, metric: str, validation: Collection[str]) -> str:
    """Return the name of a metric in the records: with its set's, if there are several.

    validation: the names of all validation sets.
    """
    return f"{validation_set}_{metric}" if len(validation) > 1 else metric


def rows_in_words(set_name: str) -> str:
    """Return what messages call the rows of one of the sets of a task."""
    return "training rows" if set_name == "train" else f"rows of {set_name}"


@dataclass(frozen=True, kw_only=True)
class Task:
    """What all tasks have.

    Attributes:
        described: the attributes that task.json has, and their types there.
        name: name of the task, of the user's training file, or of the hub dataset.
        train: the training set.
        validation: one set called "validation", or MNLI's "matched" and "mismatched" in this order.
        metrics: names of the metrics to compute.
        main_metric: the one that decides which checkpoint is the best.
    """

    described: ClassVar[Mapping[str, Any]] = {
        "name": str,
        "validation_sets": list[str],
        "metrics": list[str],
    }

    name: str
    train: Dataset
    validation: dict[str, Dataset]
    metrics: tuple[str, ...]
    main_metric: str

    @property
    def sets(self) -> dict[str, Dataset]:
        """All sets: "train" and the validation sets by their names, in this order."""
        return {"train": self.train, **self.validation}

    @property
    def validation_sets(self) -> list[str]:
        """The names of the validation sets, in their order."""
        return list(self.validation)

    @property
    def recorded_metrics(self) -> tuple[str, ...]:
        """The names of all metrics in metrics.jsonl, those of the first validation set first."""
        return tuple(
            self.recorded_name(name, metric) for name in self.validation for metric in self.metrics
        )

    @property
    def recorded_main_metric(self) -> str:
        """The name in metrics.jsonl of the metric that decides; of the first set if several."""
        return self.recorded_name(next(iter(self.validation)), self.main_metric)

    def recorded_name(self, validation_set: str, metric: str) -> str:
        """Return the name that a metric of one validation set has in metrics.jsonl."""
        return recorded_name(validation_set, metric, self.validation)

    def describe(self) -> dict[str, Any]:
        """Return what must be known of the task when its run is used, ready for JSON."""
        return {name: getattr(self, name) for name in self.described}


@dataclass(frozen=True, kw_only=True)
class TaskData(Task):
    """A task of labels: sets with columns `text`, (`text_pair`,) `label`.

    The metrics are those of `lora2.training.scores.metrics`.

    Attributes:
        text_columns: the one or two columns of the *source* that hold the texts; `lora2 predict`
            reads other files by them. In the datasets they are `text` and `text_pair`.
        label_column: the column of the source that holds the label; in the datasets, `label`.
        kind: classification (label: index into `label_names`) or regression (label: float).
        label_names: one name per class, in the order of the model's outputs; () for regression.
    """

    described: ClassVar[Mapping[str, Any]] = {
        **Task.described,
        "kind": Kind,
        "text_columns": list[str],
        "label_column": str,
        "label_names": list[str],
    }

    text_columns: tuple[str, ...]
    label_column: str
    kind: Kind
    label_names: tuple[str, ...]


def build_dataset(
    texts: Sequence[Sequence[str]],
    labels: Sequence[int | float] | None,
    kind: Kind = "classification",
) -> Dataset:
    """Make an in-memory Dataset of one or two text columns and, if given, labels.

    Args:
        texts: one or two columns of equally many texts.
        labels: one label per row, or None where there are none (prediction).
        kind: decides the type of the label column, int64 or float32.
    """
    datasets = require("datasets", extra="train")
    columns: dict[str, Any] = dict(zip(TEXT_COLUMNS, texts, strict=False))
    types = {name: datasets.Value("string") for name in columns}
    if labels is not None:
        columns[LABEL_COLUMN] = labels
        types[LABEL_COLUMN] = datasets.Value("int64" if kind == "classification" else "float32")
    # Types are stated, not inferred: regression labels that all happen to be whole stay floats.
    dataset: Dataset = datasets.Dataset.from_dict(columns, features=datasets.Features(types))
    return dataset
