"""The trainer of all runs that learn preferences: TRL's, with what adapters add to the loss.

TRL is an extra: import this module only after `require("trl", ...)`.
"""

from __future__ import annotations

import operator
from typing import Any

from trl import DPOTrainer

from lora2.data.tokenization.preferences import told_apart
from lora2.training.trainer.run_trainer import RunBase
from lora2.training.trainer.trl_penalty import WithPenalty


class RunDpoTrainer(WithPenalty, RunBase, DPOTrainer):
    """TRL's DPOTrainer for LoRA² and all other methods."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # There is one number for each batch that is scored.
        self._rows: list[int] = []

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], *arguments: Any, **named: Any
    ) -> Any:
        """Return what TRL does, and count the rows."""
        self._rows.append(len(inputs["input_ids"]))
        return super().prediction_step(model, inputs, *arguments, **named)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log means over rows: TRL's are over batches, of which the last may have fewer rows.

        That of tokens is one of batches still, weighted by their rows.
        """
        rows, metrics = self._rows, self._metrics["eval"]
        if rows and not self.model.training:
            for name, values in metrics.items():
                if len(values) == len(rows):
                    metrics[name] = [sum(map(operator.mul, values, rows)) / sum(rows)]
            rows.clear()
        super().log(logs, start_time)

    def _prepare_dataset(self, dataset: Any, tokenizer: Any, options: Any, name: str) -> Any:
        # Rows are tokenized before there is an adapter, whose schedule depends on their number.
        if "prompt_ids" in dataset.column_names:
            return dataset
        made = super()._prepare_dataset(dataset, tokenizer, options, name)
        return told_apart(made, options.max_length)
