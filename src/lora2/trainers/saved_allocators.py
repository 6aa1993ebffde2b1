"""The allocators' states in `trainer_state.json`: base64 of safetensors, by adapter.

So they are JSON, and nothing is unpickled.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Mapping

from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from transformers import TrainerState

from lora2.errors import UserError
from lora2.tuners.lora2.allocation.allocator import RankAllocator

logger = logging.getLogger(__name__)

NAME = "saved_allocators"
"""The attribute of a callback that transformers writes and restores."""


def encoded(allocators: Mapping[str, RankAllocator]) -> dict[str, str]:
    """Return the states of allocators as text, by their names."""
    return {
        name: base64.b64encode(save_safetensors(allocator.state_dict())).decode()
        for name, allocator in allocators.items()
    }


def restore(
    allocators: Mapping[str, RankAllocator],
    state: TrainerState,
    callback: str,
    otherwise: Mapping[str, str],
) -> None:
    """Load the states that a checkpoint holds.

    callback: the name of the class that wrote them.
    otherwise: the states to load where the checkpoint has none of that callback.

    Raises:
        UserError: there is no state of one of the allocators, or it does not fit.
    """
    stored = state.stateful_callbacks.get(callback) or []
    entries = stored if isinstance(stored, list) else [stored]
    # Each of several callbacks has an entry; one that was saved before the training is empty.
    states = [entry.get("attributes", {}).get(NAME) for entry in entries]
    saved = next(filter(None, reversed(states)), otherwise)
    for name, allocator in allocators.items():
        if name not in saved:
            raise UserError(
                f"The checkpoint at step {state.global_step} holds no allocator state of "
                f"adapter {name!r}, so pruning cannot go on: resume from a checkpoint that "
                "was made with Lora2Callback, or start over."
            )
        allocator.load_state_dict(load_safetensors(base64.b64decode(saved[name])))
        if allocator.completed_steps != state.global_step:
            logger.warning(
                "The allocator had done %d steps and the trainer %d.",
                allocator.completed_steps,
                state.global_step,
            )
