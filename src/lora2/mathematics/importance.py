"""Sensitivity of a parameter and importance of a singular value (section 3.3, eq. 6–9)."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


def update_averages(
    average: Tensor,
    uncertainty: Tensor,
    weight: Tensor,
    gradient: Tensor,
    *,
    beta1: float,
    beta2: float,
) -> tuple[Tensor, Tensor]:
    """Return (Ī_t, Ū_t), all of the shape of `weight` (eq. 6 and 7, as in AdaLoRA).

    I = |w g|;  Ī_t = β1 Ī_(t−1) + (1 − β1) I;  Ū_t = β2 Ū_(t−1) + (1 − β2) |I − Ī_t|.
    """
    instant = (weight * gradient).abs()
    average = beta1 * average + (1 - beta1) * instant
    uncertainty = beta2 * uncertainty + (1 - beta2) * (instant - average).abs()
    return average, uncertainty


def sensitivity(average: Tensor, uncertainty: Tensor) -> Tensor:
    """Return S = Ī Ū, elementwise."""
    return average * uncertainty


def reduced_importance(S_lam: Tensor, S_u: Tensor, S_U: Tensor) -> Tensor:
    """Return 𝕀(λ_i) = S(λ_i) + Σ_j S(u_ji)/k + Σ_j S(𝒰_ij)/k, [..., r] (eq. 9).

    S_lam [..., r], S_u [..., k, r], S_U [..., r, k].
    """
    return S_lam + S_u.mean(-2) + S_U.mean(-1)


def full_importance(S_lam: Tensor, S_u: Tensor, S_U: Tensor, S_v: Tensor, S_V: Tensor) -> Tensor:
    """Return I(λ_i) = S(λ_i) + [Σ_j S(u_ji) + s(v)]/k + [Σ_j S(𝒰_ij) + s(𝒱)]/k, [..., r] (eq. 8).

    s(·) sums a whole outer matrix, S_v [..., k, d_in], as v is stored, and S_V [..., k, d_out]: the
    same number for every λ of one matrix, so it can change the order only between matrices.
    """
    k = S_u.shape[-2]
    shared = (S_v.sum((-2, -1)) + S_V.sum((-2, -1))) / k
    return reduced_importance(S_lam, S_u, S_U) + shared.unsqueeze(-1)


class ImportanceScore(NamedTuple):
    """A way to score singular values.

    Attributes:
        formula: takes the sensitivities S of the scored factors, gives one score a value, [..., r].
        symbols: the scored factors, in the order in which the formula takes them.
        source: where the formula is from.
    """

    formula: Callable[..., Tensor]
    symbols: tuple[str, ...]
    source: str


IMPORTANCES = {
    "reduced": ImportanceScore(reduced_importance, ("lam", "u", "U"), "eq. 9"),
    "full": ImportanceScore(full_importance, ("lam", "u", "U", "v", "V"), "eq. 8"),
}
"""Scores by their name in `Lora2Config.importance`; a new one is a function and an entry."""
