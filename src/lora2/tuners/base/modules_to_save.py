"""Finds the modules that adapters train and save whole."""

from __future__ import annotations

from collections.abc import Iterator

from peft.utils import ModulesToSaveWrapper
from torch import nn


def modules_trained_whole(model: nn.Module) -> Iterator[tuple[str, ModulesToSaveWrapper]]:
    """Yield PEFT's wrappers of the modules in `modules_to_save`, and their names."""
    for name, module in model.named_modules():
        if isinstance(module, ModulesToSaveWrapper):
            yield name, module
