"""Whether what is loaded into an allocator is a state of one of its adapter."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lora2.errors import UserError


def check_is_state(state: object) -> None:
    """Check that something is a state at all.

    Raises:
        UserError: it is not.
    """
    if not isinstance(state, Mapping) or not all(
        isinstance(value, Tensor) for value in state.values()
    ):
        raise UserError(
            f"state: a {type(state).__name__} is no allocator state; give what state_dict() "
            "returned when the checkpoint was made."
        )


def check_fits(state: Mapping[str, Tensor], own: Mapping[str, Tensor], adapter_name: str) -> None:
    """Check that a state is of an adapter of the same sizes, and was not damaged.

    own: the state of the allocator that it is loaded into.

    Raises:
        UserError: other sizes, steps or a mask that no allocator has, or averages that are NaN or
            infinite.
    """
    if {key: value.shape for key, value in own.items()} != {
        key: value.shape for key, value in state.items()
    }:
        raise UserError(
            f"The allocator state is of an adapter of other sizes than {adapter_name!r}: "
            "resume with the model and config that the checkpoint was made with."
        )
    step, total = int(state["completed_steps"]), int(state["total_steps"])
    faults = [
        f"{name} holds NaN or infinity"
        for name, value in state.items()
        if not value.isfinite().all()
    ]
    if not 0 <= step <= total:
        faults.append(f"completed_steps={step} is not from 0 to total_steps={total}")
    if state["mask"].dtype != torch.bool:
        faults.append(f"mask is of {state['mask'].dtype}, and not of {torch.bool}")
    if faults:
        raise UserError(
            f"The allocator state is damaged: {faults[0]}; resume from an earlier checkpoint."
        )
