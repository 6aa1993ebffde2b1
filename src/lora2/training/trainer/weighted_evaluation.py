"""Evaluations whose numbers are means over what is scored, and not over batches of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor

from lora2.support.ignored_label import IGNORED
from lora2.training.trainer.counted_items import CountedItems


class WeightedEvaluation(CountedItems):
    """Mixed into a trainer whose loss and metrics of a batch are means over the items in it.

    transformers and TRL average over rows and over batches. Batches with few items, above all the
    last one, would count for more, and the numbers depend on how many rows are scored at a time.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        # The loss and the items of each batch that has been scored in the present evaluation.
        self._scored: list[tuple[Tensor, int]] = []

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], *arguments: Any, **named: Any
    ) -> Any:
        """Return what the trainer does, and keep the loss and the number of items."""
        inputs = self._without_repeated_rows(inputs)
        items = self.items_in(inputs)
        result = super().prediction_step(model, inputs, *arguments, **named)
        if result[0] is not None:
            self._scored.append((result[0].detach(), items))
        return result

    def evaluation_loop(self, *arguments: Any, **named: Any) -> Any:
        """Return what the trainer does, with means over the items of all processes."""
        self._scored.clear()
        output = super().evaluation_loop(*arguments, **named)
        if not self._scored:
            return output
        losses = torch.stack([loss for loss, _ in self._scored]).double().tolist()
        own = [(loss, items) for loss, (_, items) in zip(losses, self._scored, strict=True)]
        processes: list[list[tuple[float, int]]] = gather_object([own])
        flat = [pair for batches in processes for pair in batches]
        loss_name = f"{named.get('metric_key_prefix', 'eval')}_loss"
        if loss_name in output.metrics:
            output.metrics[loss_name] = _mean(*zip(*flat, strict=True))
        # TRL's metrics of a batch are of all processes. It keeps some once for all batches, such as
        # the number of tokens of the training, which stay as they are.
        of_batches = [sum(items for _, items in batch) for batch in zip(*processes, strict=True)]
        for metric, values in getattr(self, "_metrics", {}).get("eval", {}).items():
            if len(values) == len(of_batches):
                self._metrics["eval"][metric] = [_mean(values, of_batches)]
        return output

    def _without_repeated_rows(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return a batch in which rows that fill it up, for other processes, have no labels.

        accelerate fills the last batches with the first rows of the set, so that all processes have
        as many.
        """
        loader, labels = self.accelerator.gradient_state, inputs.get("labels")
        if not loader.end_of_dataloader or loader.remainder <= 0 or labels is None:
            return inputs
        rows = len(labels)
        # Rows that are packed into one, without padding, do not show how many they are.
        if self.accelerator.num_processes == 1 or rows != self.args.eval_batch_size:
            return inputs
        own = max(0, min(rows, loader.remainder - self.accelerator.process_index * rows))
        labels = labels.clone()
        labels[own:] = IGNORED
        return {**inputs, "labels": labels}


def _mean(values: Sequence[float], weights: Sequence[int]) -> float:
    # The loss of a batch without items may be NaN.
    weighted = [(value, n) for value, n in zip(values, weights, strict=True) if n]
    return sum(value * n for value, n in weighted) / max(1, sum(n for _, n in weighted))
