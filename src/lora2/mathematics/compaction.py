"""Δ = v u Λ 𝒰 𝒱 with as few numbers as its rank needs, exactly."""

from __future__ import annotations

import torch
from torch import Tensor

from lora2.mathematics.factors import normal_form


def from_normal_form(
    P: Tensor, sigma: Tensor, Q: Tensor, *, k: int, r: int, length: float
) -> dict[str, Tensor]:
    """Return v [d_in, k], u, lam, U and V [k, d_out] with v̂ u Λ 𝒰 𝒱 = P diag(σ) Q, cut to k.

    P [d_in, ·] has orthonormal columns, Q [·, d_out] orthonormal rows. λ is 1 and the magnitude is
    in 𝒱; columns of v get this length, which does not count where v is made orthonormal.
    """
    return {
        "v": length * P[:, :k],
        "u": torch.eye(k, r, dtype=P.dtype, device=P.device),
        "lam": torch.ones(r, dtype=P.dtype, device=P.device),
        "U": torch.eye(r, k, dtype=P.dtype, device=P.device),
        "V": (sigma.unsqueeze(-1) * Q)[:k],
    }


def compacted(
    v: Tensor,
    u: Tensor,
    lam: Tensor,
    U: Tensor,
    V: Tensor,
    *,
    orthonormalize: bool,
    length: float,
) -> dict[str, Tensor]:
    """Return the five factors of one matrix without its zero singular values; Δ is the same.

    Where r' values are left of k > r', Δ has rank r' at most and all sizes become r', by the
    singular value form of Δ: two thin QR decompositions and one k × k SVD. Where r' ≥ k, columns
    of u and rows of 𝒰 go. Give the factors in float64: rounded once, Δ is then exact to float32.
    """
    kept = (lam != 0).nonzero().flatten()
    k, r = V.shape[0], len(kept)
    if r == 0:
        return {"v": v[:, :0], "u": u[:0, :0], "lam": lam[:0], "U": U[:0, :0], "V": V[:0]}
    if r >= k:
        inner = {"u": u.index_select(1, kept), "lam": lam[kept], "U": U.index_select(0, kept)}
        return {"v": v, **inner, "V": V}
    P, sigma, Q = normal_form(v, u, lam, U, V, orthonormalize=orthonormalize)
    return from_normal_form(P, sigma, Q, k=r, r=r, length=length)
