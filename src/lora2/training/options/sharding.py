"""Which engine splits the tensors of a run over processes, and which options ask for what of it."""

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


def checkpointing_by_fsdp(settings: RunSettings) -> str | None:
    """Return the option that lets FSDP wrap the blocks of the model to checkpoint them."""
    # transformers takes each name with "fsdp_" before it, too.
    content = settings.training.get("fsdp_config")
    variable = "FSDP_ACTIVATION_CHECKPOINTING"
    asked = {
        f"fsdp_config: {name}": content.get(name)
        for name in ("activation_checkpointing", "fsdp_activation_checkpointing")
        if isinstance(content, dict)
    } | {variable: os.environ.get(variable)}
    found = (name for name, value in asked.items() if str(value).lower() in _YES)
    return next((f"{name}={as_typed(asked[name])}" for name in found), None)
