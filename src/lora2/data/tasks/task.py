"""Tasks: what a run trains on and is measured by, ready to be tokenized, wherever it came from."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from datasets import Dataset

# Every Dataset of this package has its labels in this column, whatever the source calls them.
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
    """A task of any kind.

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
