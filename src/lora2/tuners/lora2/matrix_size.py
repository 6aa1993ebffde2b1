"""What of an adapted matrix decides how large its change is."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class MatrixSize:
    """The sizes of one matrix and of its change.

    Attributes:
        cost: d_in + d_out, the parameters of a LoRA of rank one.
        k: the largest rank of the change.
        r: singular values at the start.
    """

    cost: int
    k: int
    r: int

    def parameters(self, kept: int) -> int:
        """Return the parameters of a LoRA that holds this many of the singular values."""
        return self.cost * min(kept, self.k)

    @property
    def per_value(self) -> int:
        """The parameters of a LoRA that one singular value needs.

        Where k is cut to the smaller side of a matrix, r may be above it: a value then has its
        share of those of rank k.
        """
        return self.cost if self.k >= self.r else math.ceil(self.k * self.cost / self.r)
