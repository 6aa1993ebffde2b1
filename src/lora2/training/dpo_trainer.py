"""The trainer of all runs that learn preferences: TRL's, with what adapters add to the loss.

TRL is an extra: import this module only after `require("trl", ...)`.
"""

from __future__ import annotations

from typing import Any

from trl import DPOTrainer

from lora2.training.run_trainer import RunBase
from lora2.training.trl_penalty import WithPenalty


class RunDpoTrainer(WithPenalty, RunBase, DPOTrainer):
    """TRL's DPOTrainer for LoRA² and all other methods."""

    def _prepare_dataset(self, dataset: Any, *arguments: Any) -> Any:
        # Rows are tokenized before there is an adapter, whose schedule depends on their number.
        if "prompt_ids" in dataset.column_names:
            return dataset
        return super()._prepare_dataset(dataset, *arguments)
