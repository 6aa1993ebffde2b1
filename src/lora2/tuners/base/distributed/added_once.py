"""Adds something to the next gradient of a parameter."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils.hooks import RemovableHandle


def add_once(parameter: Tensor, added: Tensor) -> RemovableHandle:
    """Add something to the next gradient of a parameter, and to no later one.

    Other hooks of the parameter, such as those that record its gradient, see it with the addition.

    Returns:
        What removes it, if no gradient has come.
    """
    hook = _AddedOnce(added)
    hook.handle = parameter.register_hook(hook)
    # Hooks are called in the order of this dictionary, which torch has no other way to choose.
    held: Any = parameter._backward_hooks
    for key in [each for each in held if each != hook.handle.id]:
        held[key] = held.pop(key)
    return hook.handle


class _AddedOnce:
    """A hook of a parameter that removes itself."""

    handle: RemovableHandle

    def __init__(self, added: Tensor) -> None:
        self._added = added

    def __call__(self, gradient: Tensor) -> Tensor:
        self.handle.remove()
        return gradient + self._added
