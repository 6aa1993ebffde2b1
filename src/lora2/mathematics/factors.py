"""Δ = v u Λ 𝒰 𝒱 as a product of two thin factors (eq. 4)."""

from typing import Any

import torch
from torch import Tensor

# Below this share of the mean eigenvalue a direction counts as lost; it keeps x^(-1/2) finite.
_SMALLEST_EIGENVALUE = 1e-10


class _InverseSquareRoot(torch.autograd.Function):
    """G^(-1/2) by eigendecomposition, with the derivative written out.

    Autograd through `eigh` divides by differences of eigenvalues, which are all zero at the start,
    where G is a multiple of I. For X = G^(-1/2) = E s^(-1) Eᵀ the derivative is exact without them:
    Eᵀ dX E = K ∘ (Eᵀ dG E),  K_ij = -1 / (s_i s_j (s_i + s_j)).
    """

    @staticmethod
    def forward(ctx: Any, gram: Tensor) -> Tensor:
        eigenvalues, E = torch.linalg.eigh(gram)
        floor = _SMALLEST_EIGENVALUE * eigenvalues.mean(-1, keepdim=True)
        s = torch.maximum(eigenvalues, floor).sqrt()
        ctx.save_for_backward(s, E)
        return (E / s.unsqueeze(-2)) @ E.mT

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        s, E = ctx.saved_tensors
        rows, columns = s.unsqueeze(-1), s.unsqueeze(-2)
        K = -1 / (rows * columns * (rows + columns))
        return E @ (K * (E.mT @ grad @ E)) @ E.mT


def inverse_square_root(gram: Tensor) -> Tensor:
    """Return G^(-1/2) of a symmetric positive definite matrix; gram [..., k, k]."""
    if gram.shape[-1] == 1:
        return gram.rsqrt()
    return _InverseSquareRoot.apply(gram)


def core(v: Tensor, u: Tensor, lam: Tensor, U: Tensor, *, orthonormalize: bool) -> Tensor:
    """Return the whole middle of Δ as one small matrix, [..., k, k].

    Without `orthonormalize` it is M = u Λ 𝒰. With it, M stands behind (vᵀv)^(-1/2), so that
    v (vᵀv)^(-1/2) M 𝒱 has an exactly orthonormal outer factor whatever the raw v is.
    """
    M = (u * lam.unsqueeze(-2)) @ U
    if orthonormalize:
        return inverse_square_root(v.mT @ v) @ M
    return M


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
    rank k. Cost: O(k² (d_in + r + d_out)), independent of the batch.
    """
    M = core(v, u, lam, U, orthonormalize=orthonormalize)
    return ((scaling * M) @ V).mT, v.mT


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
