"""The penalty that has joined the loss, as means over optimizer steps."""

from __future__ import annotations

from torch import Tensor


class PenaltyMeter:
    """Takes in what each micro-batch adds to the loss, and averages over optimizer steps.

    Attributes:
        losses_are_summed: whether the trainer adds up the losses of its micro-batches instead of
            averaging them.
    """

    def __init__(self) -> None:
        self.losses_are_summed = False
        # What the loss of the present step has of it, and the sum over the steps that have ended.
        self._present: Tensor | None = None
        self._ended: Tensor | float = 0.0
        self._ended_steps = 0

    @property
    def has_added(self) -> bool:
        """Whether the penalty has joined a loss in the present optimizer step."""
        return self._present is not None

    def add(self, penalty: Tensor) -> None:
        """Take in what was added to the loss of one micro-batch; the device is not waited for."""
        # Where losses are averaged, all micro-batches of a step have the same penalty, since their
        # weights are the same. They are not counted, because a compiler would compile the model
        # again for each number.
        added = penalty.detach()
        if self.losses_are_summed and self._present is not None:
            added = self._present + added
        self._present = added

    def end_step(self) -> None:
        """Close an optimizer step."""
        if self._present is not None:
            self._ended, self._present = self._ended + self._present, None
            self._ended_steps += 1

    def take_mean(self) -> float | None:
        """Return the mean over the optimizer steps ended since the last call, None without any."""
        mean = float(self._ended) / self._ended_steps if self._ended_steps else None
        self._ended, self._ended_steps = 0.0, 0
        return mean
