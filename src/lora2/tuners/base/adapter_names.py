"""Names that an adapter can have."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from torch import nn

from lora2.errors import UserError

BASE_ONLY = "__base__"
"""PEFT's name, in mixed batches, for "no adapter"."""

_EXAMPLE = "write a name of letters, digits and underscores, such as 'default'"
# What an adapter's tensors and modules are held in, under its name.
_HOLDERS = (nn.ModuleDict(), nn.ParameterDict())


def check_adapter_name(name: Any) -> None:
    """Check that an adapter's name can be that of a module, and of the folder it is saved in.

    Raises:
        UserError: it cannot.
    """
    if not isinstance(name, str) or not name:
        raise UserError(f"adapter_name={name!r} is no name: {_EXAMPLE}.")
    if "." in name or "\0" in name or PurePath(name).is_absolute():
        raise UserError(
            f"adapter_name={name!r} can be no name of a module and a folder, because it has a dot "
            f"or a zero byte or begins with a slash: {_EXAMPLE}."
        )
    if name == BASE_ONLY or any(hasattr(holder, name) for holder in _HOLDERS):
        raise UserError(f"adapter_name={name!r} means something else in torch or PEFT: {_EXAMPLE}.")
