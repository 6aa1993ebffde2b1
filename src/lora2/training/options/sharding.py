"""Which engine splits the tensors of a run over processes, and which option asks for it."""

from __future__ import annotations

import os

from lora2.training.options.arguments import RunSettings, as_typed

FSDP, DEEPSPEED = "fsdp", "deepspeed"

# accelerate takes these values of an environment variable for true.
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
