"""The five factors of an adapter in one weight: what each is called, and how it is stored.

Layers, saving, pruning, checks and import read this table, so that each fact is in one place.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Factor:
    """One factor as a layer stores it.

    Attributes:
        attribute: the name of the layer's attribute that holds one tensor per adapter.
        sizes: the stored tensor's sizes by name: d_in, d_out, k and r.
    """

    attribute: str
    sizes: tuple[str, ...]

    def shape(self, **sizes: int) -> tuple[int, ...]:
        """Return the stored tensor's shape for d_in, d_out, k and r."""
        return tuple(sizes[name] for name in self.sizes)


FACTORS = {
    # vᵀ, like LoRA's A: a product with rows of length d_in takes half the time.
    "v": Factor("lora2_v", ("k", "d_in")),
    "u": Factor("lora2_u", ("k", "r")),
    "lam": Factor("lora2_lambda", ("r",)),
    "U": Factor("lora2_U", ("r", "k")),
    "V": Factor("lora2_V", ("k", "d_out")),
}
"""The factors by their symbols in `lora2.mathematics`."""

INNER = tuple(
    symbol for symbol, factor in FACTORS.items() if not {"d_in", "d_out"} & set(factor.sizes)
)
"""The symbols of the small factors, which have the size of no matrix."""
