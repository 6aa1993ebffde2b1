"""Names of modules inside what torch.compile returns, which has a module of its own around them."""

from __future__ import annotations

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


def name_before_compiling(name: str) -> str:
    """Return the name that a module or tensor had before parts of the model were compiled."""
    return name.replace(f"{_INNER}.", "")
