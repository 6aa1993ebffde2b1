"""How far the factors are from orthonormal (eq. 5), from k × k matrices only.

The paper prints ‖vvᵀ − I‖² (d_in × d_in) and ‖uᵀu − I‖² (r × r). For any X [m, n]

    ‖XXᵀ − I_m‖² = ‖XᵀX − I_n‖² + (m − n),

so the small side has the same gradient, and its value is the large one less a constant. Here the
small side is used throughout: 0 then means "as orthonormal as the shape allows". With S = vᵀv and
G = uuᵀ the same holds for PᵀP = uᵀSu, since tr((uᵀSu)^n) = tr((S G)^n).
"""

from typing import Literal, get_args

import torch
from torch import Tensor

OrthogonalityTerms = Literal["uv", "UV", "uv&UV", "P&Q", "all"]

ORTHOGONALITY_TERMS: tuple[str, ...] = get_args(OrthogonalityTerms)


def deviation(T: Tensor) -> Tensor:
    """Return tr((T − I)²), [...]: for a symmetric T [..., n, n] that is ‖T − I‖² (Frobenius).

    T = S G, a product of two Gram matrices, is not symmetric; its trace is still that of the
    symmetric S^(1/2) G S^(1/2), which spares the square root.
    """
    difference = T - torch.eye(T.shape[-1], dtype=T.dtype, device=T.device)
    return (difference * difference.mT).sum((-2, -1))


def penalty(S_v: Tensor, S_V: Tensor, u: Tensor, U: Tensor, terms: OrthogonalityTerms) -> Tensor:
    """Return the sum of the chosen terms of eq. 5 per matrix, [...], less their constants.

    S_v = vᵀv and S_V = 𝒱𝒱ᵀ [..., k, k]: all that is needed of the outer factors.
    terms: "uv" R(u, v); "UV" R(𝒰, 𝒱); "uv&UV" both; "P&Q" R(P, Q); "all" the three (Table 3).
    """
    total = torch.zeros(u.shape[:-2], dtype=u.dtype, device=u.device)
    if terms in ("uv", "uv&UV", "all"):
        total = total + deviation(S_v) + deviation(_small_gram(u))
    if terms in ("UV", "uv&UV", "all"):
        total = total + deviation(S_V) + deviation(_small_gram(U.mT))
    if terms in ("P&Q", "all"):
        total = total + deviation(_product_gram(S_v, u)) + deviation(_product_gram(S_V, U.mT))
    return total


def _small_gram(u: Tensor) -> Tensor:
    k, r = u.shape[-2:]
    return u @ u.mT if k <= r else u.mT @ u


def _product_gram(S: Tensor, u: Tensor) -> Tensor:
    k, r = u.shape[-2:]
    return S @ (u @ u.mT) if k <= r else u.mT @ S @ u
