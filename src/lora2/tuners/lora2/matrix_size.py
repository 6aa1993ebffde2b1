"""The sizes of an adapted matrix that decide how large its change is."""

from __future__ import annotations

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
    def is_narrow(self) -> bool:
        """Whether it has more singular values than its change can have rank.

        k is cut to the smaller side of a matrix. Of its values k have a cost then, and the others
        none.
        """
        return self.r > self.k
