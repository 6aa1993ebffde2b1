"""The objectives that give each row one label: how rows are scored."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lora2.training.finished_run.loaded_run import LoadedRun
from lora2.training.objectives.class_results import metrics_of_logits
from lora2.training.objectives.labelling import Labelling


class RowLabelling(Labelling):
    """A class, or a value, for each row."""

    def measure(self, run: LoadedRun, rows: Any, batch_size: int) -> dict[str, float]:
        """Return the metrics of the task."""
        return metrics_of_logits(run.task["metrics"], self.logits(run, rows, batch_size), rows)

    def logits(self, run: LoadedRun, rows: Any, batch_size: int) -> Tensor:
        """Return what the model computes of rows, [rows, classes]."""
        return torch.cat(run.logits(self.batches(run, rows, batch_size)))
