"""The trainer of runs that tag words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lora2.support.ignored_label import IGNORED
from lora2.training.trainer.run_trainer import RunTrainer
from lora2.training.trainer.weighted_evaluation import WeightedEvaluation


class TagTrainer(WeightedEvaluation, RunTrainer):
    """A trainer in which each tag counts alike: of an optimizer step, and of an evaluation."""

    def items_in(self, batch: Mapping[str, Any]) -> int:
        """Return the number of tags, of which the loss of a batch is the mean."""
        return int((batch["labels"] != IGNORED).sum())
