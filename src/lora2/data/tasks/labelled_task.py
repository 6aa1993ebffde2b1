"""LabelledTextTask: texts, or pairs of texts, each of which has a class or a number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lora2.data.tasks.task import LABEL_COLUMN, Task
from lora2.support.extras import require

if TYPE_CHECKING:
    from datasets import Dataset

Kind = Literal["classification", "regression"]

# Every Dataset of this package has its texts in these columns, whatever the source calls them.
TEXT_COLUMNS = ("text", "text_pair")


@dataclass(frozen=True, kw_only=True)
class LabelledTextTask(Task):
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
    # Types are stated and not inferred, because labels of a regression may all be whole numbers.
    dataset: Dataset = datasets.Dataset.from_dict(columns, features=datasets.Features(types))
    return dataset
