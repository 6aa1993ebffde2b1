"""Factors computed ahead of a forward pass, and when they may still be used."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn


class PreparedFactors:
    """B and A of one layer, good for as long as the five tensors they come from are unchanged."""

    def __init__(self, B: Tensor, A: Tensor, made_from: Iterable[nn.Parameter]) -> None:
        self.B, self.A = B, A
        self._made_from = [(parameter, parameter._version) for parameter in made_from]

    def hold_for(self, parameters: Iterable[nn.Parameter]) -> bool:
        """Whether these are the same tensors, not written to since."""
        return all(
            mine is theirs and version == theirs._version
            for (mine, version), theirs in zip(self._made_from, parameters, strict=True)
        )


class PreparedByAdapter(dict[str, PreparedFactors]):
    """Prepared factors by adapter name; a copy of the layer makes its own."""

    def __deepcopy__(self, memo: dict[int, Any]) -> PreparedByAdapter:
        return PreparedByAdapter()

    def __reduce__(self) -> tuple[Any, ...]:
        return PreparedByAdapter, ()
