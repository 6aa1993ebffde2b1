"""What is found where each row has one class: its name, the probabilities of all, and metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers import EvalPrediction

from lora2.data.tasks.task import LABEL_COLUMN
from lora2.training.scores.metrics import compute_metrics

if TYPE_CHECKING:
    from datasets import Dataset


def class_columns(names: Sequence[str], flat: bool) -> list[str]:
    """Return the names of the result's columns: in flat formats, each class has its own."""
    classes = [f"probabilities_{name}" for name in names] if flat else ["probabilities"]
    return ["label", *classes]


def class_cells(logits: Tensor, names: Sequence[str], flat: bool) -> list[list[Any]]:
    """Return label and probabilities of each row, of logits [rows, classes]."""
    cells = []
    for row in logits:
        shares = [round(value, 6) for value in row.softmax(0).tolist()]
        probabilities = shares if flat else [dict(zip(names, shares, strict=True))]
        cells.append([names[int(row.argmax())], *probabilities])
    return cells


def metrics_of_logits(names: Sequence[str], logits: Tensor, rows: Dataset) -> dict[str, float]:
    """Return the metrics of these names, of logits [rows, classes] and the labels of the rows."""
    labels = rows.with_format("numpy")[LABEL_COLUMN][:]
    return compute_metrics(names)(EvalPrediction(logits.numpy(), labels))
