"""The trainer of all runs that learn texts: TRL's, with what adapters add to the loss.

TRL is an extra: import this module only after `require("trl", ...)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trl import SFTTrainer

from lora2.support.ignored_label import IGNORED
from lora2.training.trainer.run_trainer import RunBase
from lora2.training.trainer.trl_penalty import WithPenalty
from lora2.training.trainer.weighted_evaluation import WeightedEvaluation


class RunSftTrainer(WeightedEvaluation, WithPenalty, RunBase, SFTTrainer):
    """TRL's SFTTrainer for LoRA² and all other methods; its metrics are means over tokens."""

    def items_in(self, batch: Mapping[str, Any]) -> int:
        """Return the number of tokens that are learnt, of which the loss of a batch is the mean."""
        labels = batch["labels"]
        # Nothing predicts the first token of a row, but for virtual tokens in front of it.
        return int((labels if self._has_prompt() else labels[:, 1:]).ne(IGNORED).sum())

    def _has_prompt(self) -> bool:
        config = getattr(self.accelerator.unwrap_model(self.model), "active_peft_config", None)
        return config is not None and bool(config.is_prompt_learning)
