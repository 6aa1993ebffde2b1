"""Δ = v u Λ 𝒰 𝒱 as a product of two thin factors (eq. 4)."""

from torch import Tensor

from lora2.mathematics.inverse_square_root import inverse_square_root
from lora2.mathematics.low_rank import singular_value_form


def core(
    u: Tensor, lam: Tensor, U: Tensor, *, gram: Tensor | None = None, scaling: float = 1.0
) -> Tensor:
    """Return C [..., k, k], the whole middle of scaling · Δ = v C 𝒱 as one small matrix.

    C = scaling · u Λ 𝒰; with gram = vᵀv it is multiplied by (vᵀv)^(-1/2), so that the outer factor
    v (vᵀv)^(-1/2) is exactly orthonormal whatever the raw v is.
    """
    M = (scaling * u * lam.unsqueeze(-2)) @ U
    return M if gram is None else inverse_square_root(gram) @ M


def thin_factors(v: Tensor, C: Tensor, V: Tensor) -> tuple[Tensor, Tensor]:
    """Return (B [..., d_out, k], A [..., k, d_in]) with B A = (v C 𝒱)ᵀ (eq. 4).

    That is PyTorch's orientation, where a weight is d_out × d_in: B and A are those of a LoRA of
    rank k. B is 𝒱ᵀ as it is stored, no copy; A holds all the rest.
    """
    return V.mT, C.mT @ v.mT


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

    Cost: O(k² (d_in + r)), independent of the batch.
    """
    gram = v.mT @ v if orthonormalize else None
    return thin_factors(v, core(u, lam, U, gram=gram, scaling=scaling), V)


def normal_form(
    v: Tensor, u: Tensor, lam: Tensor, U: Tensor, V: Tensor, *, orthonormalize: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (P [..., d_in, k], σ [..., k], Q [..., k, d_out]): the singular value form of Δ.

    P has orthonormal columns, Q orthonormal rows, σ falls; Δ = P diag(σ) Q exactly.
    """
    C = core(u, lam, U, gram=v.mT @ v if orthonormalize else None)
    return singular_value_form(v @ C, V)
