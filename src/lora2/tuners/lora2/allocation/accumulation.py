"""Whether accelerate is between two optimizer steps, where a prepared optimizer does not step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from accelerate.state import GradientState
from torch import Tensor

from lora2.errors import UserError
from lora2.tuners.base.distributed.gathering import local_part


class AccumulationWatch:
    """Tells micro-batches of `accelerator.accumulate()` from optimizer steps.

    parameters: returns some that every optimizer step changes.
    """

    def __init__(self, parameters: Callable[[], Sequence[Tensor]]) -> None:
        self._parameters = parameters
        # What the parameters were at the last call; None before the first.
        self._last: _Seen | None = None

    def is_micro_batch(self) -> bool:
        """Whether the optimizer has not stepped, because the gradients are still accumulated.

        Raises:
            UserError: accelerate says so, and the parameters have changed all the same.
        """
        if GradientState().sync_gradients:
            return False
        if self._last is not None and self._last.have_changed(self._parameters()):
            raise UserError(
                "optimizer: accelerate accumulates gradients at this micro-batch, and the "
                "optimizer has stepped all the same: pass it through accelerator.prepare(). After "
                "an accelerate loop that was stopped between two steps, call "
                "accelerator.gradient_state._set_sync_gradients(True) before another loop."
            )
        self._last = _Seen(self._parameters())
        return True

    def end_step(self) -> None:
        """Note what the parameters are after an optimizer step and all that belongs to it."""
        # Read only where it is of use: in a plain loop it would be work in every step.
        state = GradientState()
        if state.num_steps > 1 or not state.sync_gradients:
            self._last = _Seen(self._parameters())


class _Seen:
    """What parameters were at a time: their versions, and the values of the first.

    An optimizer of one operation for all parameters ("fused") leaves the versions as they are.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._versions = [parameter._version for parameter in parameters]
        self._first = local_part(parameters[0].detach()).clone().contiguous()

    def have_changed(self, parameters: Sequence[Tensor]) -> bool:
        """Whether one of these, which are the same parameters, is another now."""
        versions = [parameter._version for parameter in parameters]
        first = local_part(parameters[0].detach())
        if first.device != self._first.device:
            return False
        # Bits are compared, since a NaN is equal to nothing.
        return versions != self._versions or not torch.equal(
            first.contiguous().view(torch.uint8), self._first.view(torch.uint8)
        )
