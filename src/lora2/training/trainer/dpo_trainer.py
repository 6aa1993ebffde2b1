"""The trainer of all runs that learn preferences: TRL's, with what adapters add to the loss.

TRL is an extra: import this module only after `require("trl", ...)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trl import DPOTrainer

from lora2.data.tokenization.preferences import told_apart
from lora2.training.trainer.run_trainer import RunBase
from lora2.training.trainer.trl_penalty import WithPenalty
from lora2.training.trainer.weighted_evaluation import WeightedEvaluation
from lora2.training.trainer.weighted_steps import WeightedSteps


class RunDpoTrainer(WeightedSteps, WeightedEvaluation, WithPenalty, RunBase, DPOTrainer):
    """TRL's DPOTrainer for LoRA² and all other methods, in which each pair counts alike.

    TRL's metrics of tokens are means over the tokens of a batch, weighted by its pairs.
    """

    def items_in(self, batch: Mapping[str, Any]) -> int:
        """Return the number of answers, twice that of the pairs."""
        return len(batch["input_ids"])

    def _prepare_dataset(self, dataset: Any, tokenizer: Any, options: Any, name: str) -> Any:
        # Rows are tokenized before there is an adapter, whose schedule depends on their number.
        if "prompt_ids" in dataset.column_names:
            return dataset
        made = super()._prepare_dataset(dataset, tokenizer, options, name)
        return told_apart(made, options.max_length)
