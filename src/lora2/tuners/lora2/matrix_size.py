"""The sizes that an adapted matrix and its change have."""

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

    @classmethod
    def of(cls, shape: tuple[int, int], k: int, r: int) -> MatrixSize:
        """Return the sizes in a matrix of this shape, for the k and r that are asked for.

        Without singular values the change is empty.
        """
        return cls(sum(shape), largest_rank(shape, k) if r else 0, r)

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


def largest_rank(shape: tuple[int, int], k: int) -> int:
    """Return k cut to the smaller side of a matrix, above which no change of it has a rank."""
    return min(k, *shape)
