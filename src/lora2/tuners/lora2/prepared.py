"""Factors computed ahead of a forward pass, and when they may still be used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


class PreparedFactors:
    """A and 𝒱 of one layer, good for as long as the tensors they come from are unchanged.

    Attributes:
        A: [k, d_in].
        V: 𝒱 [k, d_out], both in the dtype that the layer computes in.
    """

    def __init__(self, A: Tensor, V: Tensor, made_from: Mapping[str, nn.Parameter]) -> None:
        self.A, self.V = A, V
        self._made_from = [(parameter, parameter._version) for parameter in made_from.values()]

    def holds_for(self, parameters: Mapping[str, nn.Parameter]) -> bool:
        """Whether these are the same tensors in the same order, not written to since."""
        for (made_from, version), parameter in zip(
            self._made_from, parameters.values(), strict=True
        ):
            if parameter is not made_from or parameter._version != version:
                return False
        return True


class PreparedByAdapter(dict[str, PreparedFactors]):
    """Prepared factors by adapter name; a copy of the layer makes its own."""

    def __deepcopy__(self, memo: dict[int, Any]) -> PreparedByAdapter:
        return PreparedByAdapter()

    def __reduce__(self) -> tuple[Any, ...]:
        return PreparedByAdapter, ()
