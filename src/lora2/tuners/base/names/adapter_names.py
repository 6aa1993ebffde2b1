"""Names that an adapter can have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import PurePath
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from torch import nn

from lora2.errors import UserError
from lora2.support.shown_values import as_shown

BASE_ONLY = "__base__"
"""PEFT's name, in mixed batches, for "no adapter"."""

# The base model's name in PEFT's tuner, which is in every key of a PeftModel.
_IN_TUNER = "model"
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


def check_is_text(name: Any) -> None:
    """Check that the name of an adapter is one, before it is looked up.

    Raises:
        UserError: it is something else, such as `active_adapters`, which is a list.
    """
    if not isinstance(name, str):
        raise UserError(
            f"adapter_name={as_shown(name)} is a {type(name).__name__}; give the name of one "
            "adapter, such as 'default'."
        )


def check_names_apart(names: Iterable[str], model: nn.Module) -> None:
    """Check that nothing on the way to an adapter's tensors is called as an adapter.

    PEFT leaves what has another adapter's name in its key out of an adapter's file.

    Raises:
        UserError: one is.
    """
    known = {_IN_TUNER, *_names_above_adapters(model)}
    for name in names:
        if name in known:
            raise UserError(
                f"adapter_name={name!r} is the name of a module of this model, too, which the "
                "files of other adapters would lack: write another name."
            )


def _names_above_adapters(module: nn.Module) -> Iterator[str]:
    """Yield the names on the way to adapters' tensors, and inside of what is trained whole."""
    for name, child in module._modules.items():
        if isinstance(child, BaseTunerLayer):
            # An adapted layer may have others inside, such as attention.
            yield from [name, *child.adapter_layer_names, *_names_above_adapters(child)]
        elif isinstance(child, AuxiliaryTrainingWrapper):
            # Beside the original it holds copies by the names of adapters.
            inside = child.original_module.named_modules()
            yield from [name, *(part for path, _ in inside for part in path.split("."))]
        elif child is not None:
            below = list(_names_above_adapters(child))
            yield from [name, *below] if below else []
