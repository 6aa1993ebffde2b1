"""Evaluations whose numbers are means over what is scored, and not over batches of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather_object
from torch import Tensor

if TYPE_CHECKING:
    # What `WeightedEvaluation` is mixed into.
    from transformers import Trainer as _Base
else:
    _Base = object


class WeightedEvaluation(_Base):
    """Mixed into a trainer whose loss and metrics of a batch are means over the items in it.

    transformers and TRL average over rows and over batches. Batches with few items, above all the
    last one, would count for more, and the numbers depend on how many rows are scored at a time.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        # The loss and the items of each batch that has been scored in the present evaluation.
        self._scored: list[tuple[Tensor, int]] = []

    def items_in(self, batch: Mapping[str, Any]) -> int:
        """Return how many items the loss of a batch is the mean of."""
        raise NotImplementedError

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], *arguments: Any, **named: Any
    ) -> Any:
        """Return what the trainer does, and keep the loss and the number of items."""
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
        name = f"{named.get('metric_key_prefix', 'eval')}_loss"
        if name in output.metrics:
            output.metrics[name] = _mean(*zip(*flat, strict=True))
        # Where a trainer of TRL keeps one number for each batch, it is of all processes.
        items = [sum(items for _, items in batch) for batch in zip(*processes, strict=True)]
        for name, values in getattr(self, "_metrics", {}).get("eval", {}).items():
            if len(values) == len(items):
                self._metrics["eval"][name] = [_mean(values, items)]
        return output


def _mean(values: Sequence[float], weights: Sequence[int]) -> float:
    total = max(1, sum(weights))
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / total
