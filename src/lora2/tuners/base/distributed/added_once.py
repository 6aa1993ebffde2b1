"""A hook that adds something to the next gradient of a parameter."""

from __future__ import annotations

from torch import Tensor
from torch.utils.hooks import RemovableHandle


class AddedOnce:
    """A hook of a parameter that adds to its next gradient, and to no later one."""

    handle: RemovableHandle

    def __init__(self, added: Tensor) -> None:
        self._added = added

    def __call__(self, gradient: Tensor) -> Tensor:
        """Return the gradient with what is added to it."""
        self.handle.remove()
        return gradient + self._added
