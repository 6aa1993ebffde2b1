"""Δ = v u Λ 𝒰 𝒱 as a product of two thin factors (eq. 4)."""

import torch
from torch import Tensor

from lora2.mathematics.inverse_square_root import inverse_square_root


def core(v: Tensor, u: Tensor, lam: Tensor, U: Tensor, *, orthonormalize: bool) -> Tensor:
    """Return the whole middle of Δ as one small matrix, [..., k, k].

    Without `orthonormalize` it is M = u Λ 𝒰. With it, M stands behind (vᵀv)^(-1/2), so that
    v (vᵀv)^(-1/2) M 𝒱 has an exactly orthonormal outer factor whatever the raw v is.
    """
    M = (u * lam.unsqueeze(-2)) @ U
    if orthonormalize:
        return inverse_square_root(v.mT @ v) @ M
    return M


def left_factor(V: Tensor) -> Tensor:
    """Return B [..., d_out, k] of scaling · Δᵀ = B A (eq. 4): 𝒱ᵀ as it is stored, no copy."""
    return V.mT


def right_factor(
    v: Tensor, u: Tensor, lam: Tensor, U: Tensor, *, scaling: float, orthonormalize: bool
) -> Tensor:
    """Return A [..., k, d_in] of scaling · Δᵀ = B A (eq. 4), which holds all but 𝒱."""
    M = core(v, u, lam, U, orthonormalize=orthonormalize)
    return (scaling * M).mT @ v.mT


def factors(
    v: Tensor,
    u: Tensor,
    lam: Tensor,
    U: Tensor,
    V: Tensor,
    *,
    scaling: float,
    orthonormalize: bool,
) -> tuple[Tensor, Tensor]:
    """Return (B [..., d_out, k], A [..., k, d_in]) with scaling · Δᵀ = B A (eq. 4).

    That is PyTorch's orientation, where a weight is d_out × d_in: B and A are those of a LoRA of
    rank k. Cost: O(k² (d_in + r)), independent of the batch.
    """
    A = right_factor(v, u, lam, U, scaling=scaling, orthonormalize=orthonormalize)
    return left_factor(V), A


def normal_form(
    v: Tensor, u: Tensor, lam: Tensor, U: Tensor, V: Tensor, *, orthonormalize: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (P [..., d_in, k], σ [..., k], Q [..., k, d_out]): the singular value form of Δ.

    P has orthonormal columns, Q orthonormal rows, σ falls; Δ = P diag(σ) Q exactly. It costs two
    thin QR decompositions and the SVD of one k × k matrix, never anything of size d × d.
    """
    left, R_left = torch.linalg.qr(v)
    right, R_right = torch.linalg.qr(V.mT)
    M = core(v, u, lam, U, orthonormalize=orthonormalize)
    X, sigma, Yt = torch.linalg.svd(R_left @ M @ R_right.mT)
    return left @ X, sigma, Yt @ right.mT
