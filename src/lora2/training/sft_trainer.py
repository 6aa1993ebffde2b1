"""The trainer of all runs that write texts: TRL's, with what adapters add to the loss.

TRL is an extra: import this module only after `require("trl", ...)`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from trl import SFTTrainer

from lora2.training.run_trainer import RunBase


class RunSftTrainer(RunBase, SFTTrainer):
    """TRL's SFTTrainer for LoRA² and all other methods."""

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        """Return TRL's loss, in training with the penalty that the adapter put into its own.

        TRL 1.16 adds up log-probabilities and leaves `outputs.loss` alone, where LoRA²'s penalty
        and AdaLoRA's are.
        """
        if return_outputs or not self.model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        seen: list[Any] = []

        def forward(**named: Any) -> Any:
            seen.append(model(**named))
            return seen[-1]

        loss = super().compute_loss(forward, inputs, False, num_items_in_batch)
        if getattr(seen[0], "log_probs", None) is None:
            return loss
        return loss + self._penalty(seen[0], num_items_in_batch)

    def _penalty(self, outputs: Any, num_items_in_batch: Tensor | None) -> Tensor:
        """What is in the model's loss in addition to the mean of the tokens' losses."""
        tokens = outputs.label_mask.sum().clamp(min=1)
        penalty: Tensor = outputs.loss + outputs.log_probs.sum() / tokens
        if self.aux_loss_enabled:
            penalty = penalty - self.router_aux_loss_coef * outputs.aux_loss
        if num_items_in_batch is None:
            return penalty
        # The losses of micro-batches are summed: each has its share, so that it enters once.
        share = tokens / num_items_in_batch
        if self.args.average_tokens_across_devices:
            share = share * self.accelerator.num_processes
        return share * penalty
