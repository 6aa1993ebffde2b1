"""The penalties of adapters in the loss of a trainer: whether they join it, and their mean."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

from torch import nn
from transformers import TrainingArguments

from lora2.tuners.base.model.placement import PlacedAdapter
from lora2.tuners.lora2.config import Lora2Config
from lora2.tuners.lora2.forward_hook import hooks_in


class PenaltyWatch:
    """Adds the penalties to the loss during one training, and meters them there."""

    def __init__(self, model: nn.Module, adapters: Iterable[PlacedAdapter[Lora2Config]]) -> None:
        self._hooks = hooks_in(model)
        self._has_penalty = any(adapter.config.has_penalty for adapter in adapters)
        self._was_checked = False
        self._outer_handles = [
            handle
            for hook, base in self._hooks.items()
            if base is not model and self._has_penalty
            for handle in hook.join_loss_of(model, base)
        ]

    def end_step(self) -> None:
        """Count an optimizer step; warn at the first one if the penalty has joined no loss."""
        self._warn_if_missing()
        for hook in self._hooks:
            hook.meter.end_step()

    def take_mean(self, args: TrainingArguments) -> float | None:
        """Return what the penalties contribute to the loss that the trainer logs."""
        processes = args.world_size if args.average_tokens_across_devices else 1
        means = [
            # Where the losses are added up, each process's is multiplied by their number.
            mean * (processes if hook.meter.losses_are_summed else 1)
            for hook in self._hooks
            if (mean := hook.meter.take_mean()) is not None
        ]
        return sum(means) if means else None

    def remove(self) -> None:
        """Take the penalty out of the loss of a model around the PEFT model."""
        for handle in self._outer_handles:
            handle.remove()

    def _warn_if_missing(self) -> None:
        # A loss that the trainer computes does not have the penalty.
        seen = any(hook.meter.has_added or hook.was_asked for hook in self._hooks)
        if self._has_penalty and not seen and not self._was_checked:
            warnings.warn(
                "orthogonality='penalty': the penalty has joined no loss, because the model "
                "returns none in its outputs. Add lora2.weighted_penalty(model) to the loss that "
                "you compute, or use orthogonality='exact'.",
                stacklevel=3,
            )
        self._was_checked = True
