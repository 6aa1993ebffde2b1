"""Optimizer steps in which each item counts alike, whatever micro-batch or process it is in."""

from __future__ import annotations

from typing import Any

import torch

from lora2.training.trainer.counted_items import CountedItems


class WeightedSteps(CountedItems):
    """Mixed into a trainer: the loss of a micro-batch has its share of the optimizer step.

    The last micro-batch of an epoch may have fewer items than others, and so may that of another
    process. The mean of such means is not that of the joint batch.
    """

    _items_in_step: int | None = None

    def get_batch_samples(self, *arguments: Any, **named: Any) -> tuple[list[Any], Any]:
        """Return the micro-batches of an optimizer step; its items in all processes are counted."""
        batches, number = super().get_batch_samples(*arguments, **named)
        self._items_in_step = None
        # One micro-batch of one process is the whole step, and counting waits for a GPU.
        if len(batches) * self.accelerator.num_processes > 1:
            items = torch.tensor(sum(map(self.items_in, batches)), device=self.args.device)
            self._items_in_step = int(self.accelerator.reduce(items))
        return batches, number

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], *arguments: Any, **named: Any
    ) -> Any:
        """Return the loss of a micro-batch; in training, with its weight in the optimizer step."""
        if not self.model.training or self._items_in_step is None:
            return super().compute_loss(model, inputs, *arguments, **named)
        # Label smoothing takes the labels out of the inputs.
        items = self.items_in(inputs)
        result = super().compute_loss(model, inputs, *arguments, **named)
        # The trainer divides by the micro-batches, and DistributedDataParallel by the processes.
        parts = self.current_gradient_accumulation_steps * self.accelerator.num_processes
        weight = parts * items / max(1, self._items_in_step)
        if isinstance(result, tuple):
            return (weight * result[0], *result[1:])
        return weight * result
