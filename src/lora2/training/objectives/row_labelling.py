"""The objectives that give each row one class, or one value, and what is found of a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import EvalPrediction

from lora2.data.tasks.task import LABEL_COLUMN
from lora2.training.finished_run.loaded_run import LoadedRun
from lora2.training.objectives.labelling import Labelling, ToLabel
from lora2.training.objectives.objective import Measured
from lora2.training.scores.metrics import compute_metrics


class RowLabelling(Labelling):
    """A class, or a value, for each row."""

    def measure(self, run: LoadedRun, rows: Any, batch_size: int) -> Measured:
        """Return the metrics of the task."""
        labels = rows.with_format("numpy")[LABEL_COLUMN][:]
        prediction = EvalPrediction(self.logits(run, rows, batch_size).numpy(), labels)
        return Measured(compute_metrics(run.task["metrics"])(prediction))

    def logits(self, run: LoadedRun, rows: Any, batch_size: int) -> Tensor:
        """Return what the model computes of rows, [rows, classes]."""
        return torch.cat(run.logits(self.batches(run, rows, batch_size)))

    def columns(self, run: LoadedRun, given: ToLabel, flat: bool) -> list[str]:
        """Return label and probabilities, or value; in flat formats each class has a column."""
        names = run.task["label_names"]
        if not names:
            return ["value"]
        classes = [f"probabilities_{name}" for name in names] if flat else ["probabilities"]
        return ["label", *classes]

    def found(self, run: LoadedRun, given: ToLabel, batch_size: int, flat: bool) -> list[list[Any]]:
        """Return the label and all probabilities of each row, or its value."""
        logits, names = self.logits(run, given.rows, batch_size), run.task["label_names"]
        if not names:
            return [[_in_single_precision(float(row[0]))] for row in logits]
        return [_class_cells(row, names, flat) for row in logits]


def _in_single_precision(value: float) -> float:
    """Return a value with the significant digits that float32 has, however small it is."""
    return float(f"{value:.7g}")


def _class_cells(logits: Tensor, names: Sequence[str], flat: bool) -> list[Any]:
    """Return label and probabilities of one row, of its logits [classes]."""
    shares = [round(value, 6) for value in logits.softmax(0).tolist()]
    probabilities = shares if flat else [dict(zip(names, shares, strict=True))]
    return [names[int(logits.argmax())], *probabilities]
