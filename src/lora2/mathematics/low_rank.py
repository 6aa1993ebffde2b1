"""A product B A of thin matrices: its singular value form, its rank, and one of another rank.

B [d_out, k], A [k, d_in]; everything costs O(k² (d_in + d_out)), and nothing of size d × d is made.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

# In float64, where rounding leaves 1e-15; smaller than any value that float32 could have kept.
_NEGLIGIBLE = 1e-10


def singular_value_form(B: Tensor, A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return (X [d_out, k], σ [k], Y [k, d_in]) with B A = X diag(σ) Y; k at most d_out and d_in.

    X has orthonormal columns, Y orthonormal rows, σ falls.
    """
    left, R_left = torch.linalg.qr(B)
    right, R_right = torch.linalg.qr(A.mT)
    X, sigma, Yt = torch.linalg.svd(R_left @ R_right.mT, full_matrices=False)
    return left @ X, sigma, Yt @ right.mT


def rank(sigma: Tensor) -> int:
    """Return how many singular values are not zero but for rounding; σ falling, in float64."""
    return int((sigma > _NEGLIGIBLE * sigma[:1]).sum())


def of_rank(B: Tensor, A: Tensor, wanted: int) -> tuple[Tensor, Tensor]:
    """Return (B' [d_out, wanted], A' [wanted, d_in]) with B' A' nearest to B A.

    Where `wanted` is at least k they are B and A themselves, padded with zeros; else A' has
    orthonormal rows and B' holds the singular values.
    """
    missing = wanted - len(A)
    if missing >= 0:
        return F.pad(B, (0, missing)), F.pad(A, (0, 0, 0, missing))
    X, sigma, Y = singular_value_form(B, A)
    return X[:, :wanted] * sigma[:wanted], Y[:wanted]
