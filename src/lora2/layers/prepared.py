"""A core computed ahead of a forward pass, and when it may still be used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


class PreparedCore:
    """C of one layer, good for as long as the tensors it comes from are unchanged."""

    def __init__(self, C: Tensor, made_from: Mapping[str, nn.Parameter]) -> None:
        self.C = C
        self._made_from = [
            (symbol, parameter, parameter._version) for symbol, parameter in made_from.items()
        ]

    def holds_for(self, parameters: Mapping[str, nn.Parameter]) -> bool:
        """Whether these are the same tensors, not written to since."""
        return all(
            parameters[symbol] is parameter and parameter._version == version
            for symbol, parameter, version in self._made_from
        )


class PreparedByAdapter(dict[str, PreparedCore]):
    """Prepared cores by adapter name; a copy of the layer makes its own."""

    def __deepcopy__(self, memo: dict[int, Any]) -> PreparedByAdapter:
        return PreparedByAdapter()

    def __reduce__(self) -> tuple[Any, ...]:
        return PreparedByAdapter, ()
