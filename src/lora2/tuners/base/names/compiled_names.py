"""Names of modules inside what torch.compile returns, which has a module of its own around them."""

from __future__ import annotations

from torch import nn

from lora2.errors import UserError

_INNER = "_orig_mod"


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


def name_before_compiling(name: str) -> str:
    """Return the name that a module or tensor had before parts of the model were compiled."""
    return name.replace(f"{_INNER}.", "")
