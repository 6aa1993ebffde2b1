"""The trainer of runs that tag words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lora2.data.tokenization.tags import IGNORED
from lora2.training.trainer.run_trainer import RunTrainer


class TagTrainer(RunTrainer):
    """A trainer in which each tag of an optimizer step counts alike.

    The loss of a micro-batch is the mean over its tags, of which another micro-batch, or another
    process, may have more. The mean of such means is not that of the joint batch.
    """

    def get_batch_samples(self, *arguments: Any, **named: Any) -> tuple[list[Any], Any]:
        """Return the micro-batches of an optimizer step, and the tags of it in all processes."""
        batches, _ = super().get_batch_samples(*arguments, **named)
        own = sum((_tags_in(batch) for batch in batches), torch.tensor(0))
        return batches, self.accelerator.reduce(own.to(self.args.device))

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return the loss of a micro-batch; in training, with its weight in the optimizer step."""
        tags = _tags_in(inputs)
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
        if num_items_in_batch is not None:
            # What is made of the losses is the mean over the micro-batches and the processes.
            parts = self.current_gradient_accumulation_steps * self.accelerator.num_processes
            loss = loss * (parts * tags / num_items_in_batch.clamp(min=1))
        return (loss, outputs) if return_outputs else loss


def _tags_in(batch: Mapping[str, Any]) -> Tensor:
    labels: Tensor = batch["labels"]
    return (labels != IGNORED).sum()
