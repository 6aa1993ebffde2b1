"""Whether accelerate is between two optimizer steps, where a prepared optimizer does not step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from accelerate.state import GradientState
from torch import Tensor

from lora2.errors import UserError


class AccumulationWatch:
    """Tells micro-batches of `accelerator.accumulate()` from optimizer steps.

    parameters: returns some that every optimizer step changes.
    """

    def __init__(self, parameters: Callable[[], Sequence[Tensor]]) -> None:
        self._parameters = parameters
        # Versions of the parameters at the last call; None before the first.
        self._versions: list[int] | None = None

    def is_micro_batch(self) -> bool:
        """Whether the optimizer has not stepped, because the gradients are still accumulated.

        Raises:
            UserError: accelerate says so, and the parameters have changed all the same.
        """
        if GradientState().sync_gradients:
            return False
        versions = self._present_versions()
        if self._versions not in (None, versions):
            raise UserError(
                "optimizer: accelerate accumulates gradients at this micro-batch, and the "
                "optimizer has stepped all the same: pass it through accelerator.prepare(). After "
                "an accelerate loop that was stopped between two steps, call "
                "accelerator.gradient_state._set_sync_gradients(True) before another loop."
            )
        self._versions = versions
        return True

    def end_step(self) -> None:
        """Note what the parameters are after an optimizer step and all that belongs to it."""
        # Read only where it is of use: in a plain loop it would be work in every step.
        state = GradientState()
        if state.num_steps > 1 or not state.sync_gradients:
            self._versions = self._present_versions()

    def _present_versions(self) -> list[int]:
        return [parameter._version for parameter in self._parameters()]
