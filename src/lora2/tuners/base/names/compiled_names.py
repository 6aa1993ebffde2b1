"""Names of modules that torch has put a module of its own around, as torch.compile does.

Some wrappers leave themselves out of the names in a state dict, and not out of `named_modules`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from lora2.errors import UserError

_INNER = "_orig_mod"
# `checkpoint_wrapper`, which FSDP's activation checkpointing uses, and FSDP1 have these modules.
_NOT_IN_STATE_DICTS = frozenset({"_checkpoint_wrapped_module", "_fsdp_wrapped_module"})


def check_is_not_compiled(module_name: str) -> None:
    """Check that torch.compile has put no module of its own around this one.

    Raises:
        UserError: it has, and nothing of it would be found by name in the model itself.
    """
    if _INNER in module_name.split("."):
        raise UserError(
            f"model: {module_name} is in a module that torch.compile has returned, which adds "
            f"{_INNER} to its names, and a saved adapter would not load on the model itself: add "
            "the adapter before torch.compile, or compile in place with module.compile()."
        )


def check_has_own_names(model: nn.Module) -> None:
    """Check that no part of a model is what torch.compile has returned.

    Raises:
        UserError: one is.
    """
    for name, _ in model.named_modules():
        outer, _, last = name.rpartition(".")
        if last == _INNER:
            raise UserError(
                f"model: {outer} is what torch.compile has returned, which adds {_INNER} to the "
                f"names that would be written: put {name} in its place first."
            )


def name_in_state_dict(module_name: str) -> str:
    """Return the name of a module as a state dict of the model has it."""
    return ".".join(part for part in module_name.split(".") if part not in _NOT_IN_STATE_DICTS)


def name_before_wrapping(name: str) -> str:
    """Return the name that a module or tensor had before parts of the model were wrapped."""
    return name_in_state_dict(name).replace(f"{_INNER}.", "")


class NamedAsInStateDict:
    """What PEFT reads of a model to find an adapter's tensors in its state dict."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield the modules by their names in the state dict."""
        for name, module in self._model.named_modules():
            yield name_in_state_dict(name), module

    def state_dict(self) -> dict[str, Any]:
        """Return the state dict of the model."""
        return self._model.state_dict()
