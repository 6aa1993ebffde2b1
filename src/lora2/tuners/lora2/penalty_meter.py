"""The penalty that has joined the loss, as means over optimizer steps."""

from __future__ import annotations

from torch import Tensor


class PenaltyMeter:
    """Adds up what each micro-batch adds to the loss, and averages over optimizer steps.

    Attributes:
        losses_are_summed: whether the trainer adds up the losses of its micro-batches instead of
            averaging them.
    """

    def __init__(self) -> None:
        self.losses_are_summed = False
        # Sums over the micro-batches of the present step, and over the steps that have ended.
        self._total: Tensor | float = 0.0
        self._micro_batches = 0
        self._ended: Tensor | float = 0.0
        self._ended_steps = 0

    @property
    def has_added(self) -> bool:
        """Whether the penalty has joined a loss in the present optimizer step."""
        return self._micro_batches > 0

    def add(self, penalty: Tensor) -> None:
        """Count what was added to the loss of one micro-batch; the device is not waited for."""
        self._total, self._micro_batches = self._total + penalty.detach(), self._micro_batches + 1

    def end_step(self) -> None:
        """Close an optimizer step."""
        if self._micro_batches:
            divisor = 1 if self.losses_are_summed else self._micro_batches
            self._ended = self._ended + self._total / divisor
            self._total, self._micro_batches = 0.0, 0
            self._ended_steps += 1

    def take_mean(self) -> float | None:
        """Return the mean over the optimizer steps ended since the last call, None without any."""
        mean = float(self._ended) / self._ended_steps if self._ended_steps else None
        self._ended, self._ended_steps = 0.0, 0
        return mean
