"""Which option sets the rank of a method."""

from __future__ import annotations

import dataclasses

from lora2.training.methods.method import Method
from lora2.training.options.peft_registry import KINDS


def rank_option_of(method: Method) -> str | None:
    """Return the option that sets a method's rank, as a user writes it; None if it has no rank."""
    for name in ("k", "init_r"):
        if name in method.options:
            return f"--{name}"
    kind = KINDS.get(method.name)
    if kind is not None and "r" in {each.name for each in dataclasses.fields(kind.config_type)}:
        return "r in --peft_config"
    return None


def with_rank_option(method: Method, name: str) -> str:
    """Return "with --method …", and what sets its rank if that is what an option was given for."""
    option = rank_option_of(method) if name in ("k", "init_r") else None
    whose = f", whose rank is {option}" if option else ""
    return f"with --method {method.name}{whose}"
