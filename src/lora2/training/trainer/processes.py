"""The processes of one run, which `torchrun` or `accelerate launch` starts; mostly there is one."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list
from transformers import TrainingArguments
from transformers.integrations.deepspeed import set_hf_deepspeed_config

from lora2.errors import UserError

Result = TypeVar("Result")


def is_first_process() -> bool:
    """Whether this process is the one that writes files and prints."""
    # The launcher's variable: the trainer, which could tell too, may not exist yet.
    return os.environ.get("RANK", "0") == "0"


def processes_launched() -> int:
    """Return how many processes the launcher has started."""
    size = os.environ.get("WORLD_SIZE", "1")
    if not size.isdecimal():
        raise UserError(
            f"WORLD_SIZE={size} in the environment must be the number of processes, which torchrun "
            "and accelerate launch set; unset it."
        )
    return int(size)


def in_first_process(action: Callable[[], Result]) -> Result | None:
    """Return what an action in the first process returns, None in the others, which wait for it.

    Raises:
        UserError: in every process, if the action fails in the first: all end together.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return action()
    outcome: list[Any] = [None]
    error: Exception | None = None
    result: Result | None = None
    if is_first_process():
        try:
            result = action()
        except Exception as raised:
            error, outcome = raised, [str(raised) or type(raised).__name__]
    broadcast_object_list(outcome)
    if error is not None:
        raise error
    if outcome[0] is not None:
        raise UserError(outcome[0])
    return result


def restore_engine(arguments: TrainingArguments) -> None:
    """Let the trainer of a run have DeepSpeed, after another was made to tokenize its rows.

    accelerate keeps the DeepSpeed plugin of the first trainer and refuses that of another, and
    transformers knows the config of the last one alone.
    """
    if arguments.deepspeed_plugin is None:
        return
    AcceleratorState._reset_state()
    config = getattr(arguments, "hf_deepspeed_config", None)
    if config is not None:
        set_hf_deepspeed_config(config)
    else:
        # accelerate's launcher has chosen it.
        arguments.deepspeed_plugin.set_deepspeed_weakref()
