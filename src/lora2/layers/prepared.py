"""Factors computed ahead of a forward pass, and when they may still be used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


class SharedGraph:
    """The graph behind factors that were computed as one: a backward pass uses it up."""

    def __init__(self, stack: Tensor) -> None:
        self.is_used_up = False
        if stack.requires_grad:
            # Called when all layers have had their part of the backward pass.
            stack.register_hook(self._end)

    def _end(self, gradient: Tensor) -> None:
        self.is_used_up = True


class PreparedFactors:
    """A and 𝒱 of one layer, good while the tensors they come from are unchanged, for one step.

    Attributes:
        A: [k, d_in].
        V: 𝒱 [k, d_out], both in the dtype that the layer computes in.
    """

    def __init__(
        self, A: Tensor, V: Tensor, made_from: Mapping[str, nn.Parameter], graph: SharedGraph
    ) -> None:
        self.A, self.V = A, V
        self._graph = graph
        self._made_from = [(parameter, parameter._version) for parameter in made_from.values()]

    def holds_for(self, parameters: Mapping[str, nn.Parameter]) -> bool:
        """Whether these are the same tensors in the same order, not written to since.

        Nor may a backward pass have gone through them.
        """
        if self._graph.is_used_up:
            return False
        for (made_from, version), parameter in zip(
            self._made_from, parameters.values(), strict=True
        ):
            if parameter is not made_from or parameter._version != version:
                return False
        return True


class PreparedByAdapter(dict[str, PreparedFactors]):
    """Prepared factors by adapter name; a copy of the layer makes its own.

    Attributes:
        set_aside: those of a training forward pass whose backward pass is still to come, while the
            model computes something else.
    """

    set_aside: PreparedByAdapter | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> PreparedByAdapter:
        return PreparedByAdapter()

    def __reduce__(self) -> tuple[Any, ...]:
        return PreparedByAdapter, ()
