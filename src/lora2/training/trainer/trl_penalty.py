"""The penalty of an adapter in the losses of TRL's trainers, which leave `outputs.loss` alone."""

from __future__ import annotations

from typing import Any

from torch import Tensor


class WithPenalty:
    """Mixed into a trainer of TRL's whose loss is made of `outputs.log_probs`."""

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        """Return TRL's loss, in training with the penalty that the adapter put into its own.

        TRL 1.16 makes its loss of log-probabilities and leaves `outputs.loss` alone, where LoRA²'s
        penalty and AdaLoRA's are.
        """
        trainer: Any = self
        inner: Any = super()
        if return_outputs or not trainer.model.training:
            return inner.compute_loss(model, inputs, return_outputs, num_items_in_batch)
        seen: list[Any] = []

        def forward(**named: Any) -> Any:
            seen.append(model(**named))
            return seen[-1]

        loss = inner.compute_loss(forward, inputs, False, num_items_in_batch)
        if getattr(seen[0], "log_probs", None) is None:
            return loss
        return loss + self._penalty(seen[0], num_items_in_batch)

    def _penalty(self, outputs: Any, num_items_in_batch: Tensor | None) -> Tensor:
        """Return what the model's loss has in addition to the mean of the tokens' losses."""
        trainer: Any = self
        tokens = outputs.label_mask.sum().clamp(min=1)
        penalty: Tensor = outputs.loss + outputs.log_probs.sum() / tokens
        if trainer.aux_loss_enabled:
            penalty = penalty - trainer.router_aux_loss_coef * outputs.aux_loss
        if num_items_in_batch is None:
            return penalty
        # The losses of micro-batches are summed: each has its share, so that it enters once.
        share = tokens / num_items_in_batch
        if trainer.args.average_tokens_across_devices:
            share = share * trainer.accelerator.num_processes
        return share * penalty
