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


def check_fits(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], adapter_name: str, initial: int
) -> None:
    """Check that a state is of an adapter of the same sizes, and was not damaged.

    own: the state of the allocator that it is loaded into.
    initial: its budget before anything is pruned.

    Raises:
        UserError: other sizes, steps, a budget or a mask that no allocator has, or averages that
            are NaN or infinite.
    """
    if {key: value.shape for key, value in own.items()} != {
        key: value.shape for key, value in state.items()
    }:
        raise UserError(
            f"The allocator state is of an adapter of other sizes than {adapter_name!r}: "
            "resume with the model and config that the checkpoint was made with."
        )
    fault = _fault(state, initial)
    if fault is not None:
        raise UserError(
            f"The allocator state is damaged: {fault}; resume from an earlier checkpoint."
        )


def _fault(state: Mapping[str, Tensor], initial: int) -> str | None:
    for name, value in state.items():
        if not value.isfinite().all():
            return f"{name} holds NaN or infinity"
    for name in ("completed_steps", "total_steps", "most"):
        if not _is_whole(state[name]):
            return f"{name}={state[name].item()} is no whole number"
    step, total, most = (int(state[name]) for name in ("completed_steps", "total_steps", "most"))
    if not 0 <= step <= total:
        return f"completed_steps={step} is not from 0 to total_steps={total}"
    if not min(1, initial) <= most <= initial:
        return f"most={most} is not from 1 to the first budget of {initial}"
    mask = state["mask"]
    if mask.dtype != torch.bool:
        return f"mask is of {mask.dtype}, and not of {torch.bool}"
    if len(mask) and not mask.any():
        return "mask keeps no singular value"
    return None


def _is_whole(value: Tensor) -> bool:
    if value.dtype == torch.bool or value.is_complex():
        return False
    return bool(value == value.trunc()) if value.is_floating_point() else True
