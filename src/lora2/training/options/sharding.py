"""Which engine is to split the tensors of a run over processes, and what says so."""

from __future__ import annotations

import os

from lora2.training.options.arguments import RunSettings, as_typed

FSDP, DEEPSPEED = "fsdp", "deepspeed"

# What accelerate takes for true in an environment variable.
_YES = ("y", "yes", "t", "true", "on", "1")


def sharding_of(settings: RunSettings) -> dict[str, str]:
    """Return the engines that are to split tensors, and by each the option that asks for it.

    accelerate's launcher sets a variable, which the trainer obeys as it does the option.
    """
    asked = {}
    for engine in (FSDP, DEEPSPEED):
        variable = f"ACCELERATE_USE_{engine.upper()}"
        if option := settings.training.get(engine):
            asked[engine] = f"{engine}={as_typed(option)}"
        elif (value := os.environ.get(variable, "")).lower() in _YES:
            asked[engine] = f"{variable}={value}"
    return asked
