"""The allocators of a loop that counts its optimizer steps itself, as AdaLoRA's loops do."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from lora2.errors import UserError
from lora2.tuners.lora2.allocation.allocator import RankAllocator
from lora2.tuners.lora2.config import Lora2Config


@dataclass
class _Counted:
    """An allocator and the count of the call before; calls at micro-batches count too."""

    allocator: RankAllocator
    last_step: int


class StepAllocators:
    """One allocator for each adapter of a tuner, made at the first step of its training."""

    def __init__(self) -> None:
        self._by_name: dict[str, _Counted] = {}

    def of(
        self, model: nn.Module, name: str, config: Lora2Config, global_step: int
    ) -> RankAllocator:
        """Return the allocator of an adapter at this count, a new one where a training starts.

        Raises:
            UserError: the config has no `total_step`, the first count is not the first step of
                the adapter's training, or a count leaves steps out.
        """
        known = self._by_name.get(name)
        if known is not None and known.allocator.completed_steps <= global_step + 1:
            if global_step > known.last_step + 1:
                raise _missing_steps(name, global_step)
            known.last_step = global_step
            return known.allocator
        if config.total_step is None:
            raise UserError(
                f"total_step={config.total_step} in the config of adapter {name!r}: "
                "update_and_allocate needs the number of optimizer steps there."
            )
        # Some loops count from 1.
        if global_step > 1:
            raise _missing_steps(name, global_step)
        allocator = RankAllocator(model, config.total_step, name, config=config)
        self._by_name[name] = _Counted(allocator, global_step)
        return allocator

    def forget(self, name: str) -> None:
        """Drop the allocator of an adapter that is no longer there."""
        self._by_name.pop(name, None)


def _missing_steps(adapter_name: str, global_step: int) -> UserError:
    return UserError(
        f"global_step={global_step}: update_and_allocate has not seen the steps of adapter "
        f"{adapter_name!r} before it. Count the optimizer steps of this adapter's training, from "
        "0; where that cannot be, as in a resumed one, call step() of a RankAllocator."
    )
