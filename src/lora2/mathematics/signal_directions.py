"""Directions of a gradient's rows in which its mean stands out against its scatter over batches."""

import math

import torch
from torch import Tensor

# An eigenvalue below this share of the largest strength is a rounding error.
_LEAST_SHARE = 1e-12


def signal_directions(gradients: Tensor, count: int, *, ridge: float) -> Tensor:
    """Return orthonormal directions [count, d_in] with the largest signal to noise, best first.

    gradients [batches, rows, d_in]: of one matrix, one a batch. With their mean Ḡ and D_b = G_b − Ḡ
    the ratio of a direction x is ‖Ḡ x‖² / (mean_b ‖D_b x‖² + ridge · n), where n is the mean of
    mean_b ‖D_b x‖² over all directions. It is largest at the generalized eigenvectors of ḠᵀḠ and
    N = mean_b D_bᵀD_b + ridge · n: x = N⁻¹Ḡᵀy with y an eigenvector of the small Ḡ N⁻¹ Ḡᵀ.

    Where fewer than `count` directions have any signal, only those are returned: none of a gradient
    that is zero. Where all batches have the same gradient, they are its singular vectors. It is
    computed in float64.
    """
    gradients = gradients.double()
    mean = gradients.mean(0)
    D = (gradients - mean).flatten(0, 1) / math.sqrt(len(gradients))
    d_in = mean.shape[1]
    if len(D) > d_in:
        # DᵀD is all that counts of it.
        D = torch.linalg.qr(D, mode="r").R
    noise = ridge * D.square().sum() / d_in
    if noise > 0:
        # N⁻¹ = (I − Dᵀ (noise · I + D Dᵀ)⁻¹ D) / noise (Woodbury).
        inner = D @ D.mT
        inner.diagonal().add_(noise)
        seen = torch.linalg.solve(inner, D @ mean.mT)
        X = (mean.mT - D.mT @ seen) / noise
    else:
        X = mean.mT
    strengths, Y = torch.linalg.eigh(mean @ X)
    largest = strengths.clamp(min=0).max()
    best = [
        index
        for index in range(len(strengths) - 1, -1, -1)
        if strengths[index] > _LEAST_SHARE * largest
    ]
    return torch.linalg.qr(X @ Y[:, best[:count]]).Q.mT
