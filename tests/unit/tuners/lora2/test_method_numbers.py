"""Numbers that the LoRA² paper states, or that follow from its algebra."""

import pytest
import torch

import oracle
from cases import CASE_IDS, CASES, Case
from lora2.mathematics.allocation import keep_most_important
from lora2.mathematics.factors import factors
from lora2.mathematics.importance import full_importance, reduced_importance
from lora2.mathematics.orthogonality import deviation, penalty
from lora2.tuners.lora2.start import initial_factors

# Matrices of one layer, d_in x d_out. Weights of the paper's Table 4: Q, K, V, attention output,
# and the two of the feed-forward block.
DEBERTA_V3_BASE = {
    "Q": (768, 768),
    "K": (768, 768),
    "V": (768, 768),
    "O": (768, 768),
    "F1": (768, 3072),
    "F2": (3072, 768),
}
ROBERTA_LARGE = {
    "Q": (1024, 1024),
    "K": (1024, 1024),
    "V": (1024, 1024),
    "O": (1024, 1024),
    "F1": (1024, 4096),
    "F2": (4096, 1024),
}


@pytest.mark.parametrize(
    ("shapes", "layers", "weights", "k", "parameters"),
    [
        (DEBERTA_V3_BASE, 12, "Q K", 1, 37_440),
        (DEBERTA_V3_BASE, 12, "Q V", 1, 37_440),
        (DEBERTA_V3_BASE, 12, "Q K V", 1, 56_160),
        (DEBERTA_V3_BASE, 12, "Q K V O F1 F2", 1, 167_616),
        (DEBERTA_V3_BASE, 12, "Q K V O F1 F2", 8, 1_336_896),
        (ROBERTA_LARGE, 24, "Q K V O F1 F2", 1, 445_824),
    ],
)
def test_trainable_parameters_are_the_papers(
    shapes: dict[str, tuple[int, int]], layers: int, weights: str, k: int, parameters: int
) -> None:
    r = 8
    counted = by_formula = in_oracle = 0
    for weight in weights.split():
        d_in, d_out = shapes[weight]
        start = initial_factors("gaussian", d_in, k, r, d_out, std=0.02)
        counted += layers * sum(tensor.numel() for tensor in start.values())
        by_formula += layers * (k * (d_in + d_out) + 2 * k * r + r)
        in_oracle += layers * oracle.trainable_parameters(d_in, d_out, k, r)
    assert counted == parameters
    assert by_formula == parameters
    assert in_oracle == parameters


@pytest.mark.parametrize("start", ["gaussian", "orthonormal", "lora", False])
def test_every_start_has_the_same_shapes(start: str | bool) -> None:
    for case in CASES:
        drawn = initial_factors(start, case.d_in, case.k, case.r, case.d_out, std=0.02)  # type: ignore[arg-type]
        expected = case.factors()
        assert {symbol: tensor.shape for symbol, tensor in drawn.items()} == {
            symbol: tensor.shape for symbol, tensor in expected._asdict().items()
        }


def test_reduced_importance_scores_98_46_percent_fewer_parameters() -> None:
    """At d = 768, k = 1, r = 8: 24 of 1,560 (the paper says about 98.5 %)."""
    shapes = initial_factors("gaussian", 768, 1, 8, 768, std=0.02)
    scored = (shapes["lam"].numel(), shapes["u"].numel(), shapes["U"].numel())
    reduced = reduced_importance(shapes["lam"], shapes["u"], shapes["U"])
    full = full_importance(*(shapes[symbol] for symbol in ("lam", "u", "U", "v", "V")))
    assert reduced.shape == full.shape == (8,)
    assert sum(scored) == 24
    assert sum(tensor.numel() for tensor in shapes.values()) == 1_560
    assert round(100 * (1 - sum(scored) / 1_560), 2) == 98.46


@pytest.mark.parametrize(("m", "n"), [(7, 3), (3, 7), (4, 4), (6, 1), (1, 6)])
def test_norms_over_the_two_sides_differ_by_the_difference_of_the_sides(m: int, n: int) -> None:
    """|X X^T - I_m|^2 = |X^T X - I_n|^2 + (m - n)."""
    generator = torch.Generator().manual_seed(10 * m + n)
    X = torch.randn(m, n, generator=generator, dtype=torch.float64)
    large, small = X @ X.T, X.T @ X
    oracle.assert_agrees(deviation(large), deviation(small) + (m - n))
    oracle.assert_agrees(
        oracle.distance_from_identity(large), oracle.distance_from_identity(small) + (m - n)
    )


@pytest.mark.parametrize("case", CASES, ids=CASE_IDS)
def test_rank_of_delta_is_the_smaller_of_k_and_r(case: Case) -> None:
    B, A = factors(*case.factors(), scaling=1.0, orthonormalize=False)
    assert torch.linalg.matrix_rank(B @ A, rtol=1e-9) == min(case.k, case.r)


def _penalty_of_P_and_Q(parts: oracle.Factors) -> torch.Tensor:
    return penalty(parts.v.T @ parts.v, parts.V @ parts.V.T, parts.u, parts.U, "P&Q")


@pytest.mark.parametrize("k", [1, 2, 4])
def test_least_penalty_of_P_and_Q_is_r_minus_k_a_side(k: int) -> None:
    """With k < r, P^T P has rank k and r eigenvalues: r - k of them stay at 0."""
    d_in, d_out, r = 9, 8, 5
    generator = torch.Generator().manual_seed(k)

    def orthonormal_columns(rows: int, columns: int) -> torch.Tensor:
        drawn = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
        return torch.linalg.qr(drawn).Q

    best = oracle.Factors(
        v=orthonormal_columns(d_in, k),
        u=orthonormal_columns(r, k).T,
        lam=torch.ones(r, dtype=torch.float64),
        U=orthonormal_columns(r, k),
        V=orthonormal_columns(d_out, k).T,
    )
    least = oracle.printed_penalty_PQ(best)
    oracle.assert_agrees(least, torch.tensor(2.0 * (r - k), dtype=torch.float64))
    oracle.assert_agrees(_penalty_of_P_and_Q(best), torch.zeros((), dtype=torch.float64))
    for _ in range(20):
        other = best._replace(
            v=best.v + 0.1 * torch.randn(d_in, k, generator=generator, dtype=torch.float64),
            U=best.U + 0.1 * torch.randn(r, k, generator=generator, dtype=torch.float64),
        )
        assert oracle.printed_penalty_PQ(other) > least
        assert _penalty_of_P_and_Q(other) > 0


@pytest.mark.parametrize("case", CASES, ids=CASE_IDS)
def test_equations_8_and_9_rank_alike_within_a_matrix(case: Case) -> None:
    scores = oracle.Factors(*(gradient.abs() for gradient in case.gradients(0)))
    reduced = reduced_importance(scores.lam, scores.u, scores.U)
    full = full_importance(scores.lam, scores.u, scores.U, scores.v, scores.V)
    assert torch.argsort(reduced).tolist() == torch.argsort(full).tolist()
    shift = full - reduced
    oracle.assert_agrees(shift, shift[:1].expand_as(shift))
    assert shift[0] > 0
    for budget in range(case.r + 1):
        assert torch.equal(keep_most_important(reduced, budget), keep_most_important(full, budget))


def test_equations_8_and_9_can_rank_values_of_different_matrices_differently() -> None:
    """k = 1, r = 2, two matrices. Eq. 9 gives (5, 4) and (3, 2); the outer factors of the second
    matrix score 10, so eq. 8 gives (5, 4) and (13, 12), and a global budget of 2 goes elsewhere.
    """
    S_lam = torch.tensor([[3.0, 2.0], [1.0, 0.0]])
    S_u = torch.ones(2, 1, 2)
    S_U = torch.ones(2, 2, 1)
    S_v = torch.tensor([[[0.0], [0.0], [0.0]], [[1.0], [2.0], [3.0]]])
    S_V = torch.tensor([[[0.0, 0.0]], [[4.0, 0.0]]])
    reduced = reduced_importance(S_lam, S_u, S_U)
    full = full_importance(S_lam, S_u, S_U, S_v, S_V)
    assert reduced.tolist() == [[5.0, 4.0], [3.0, 2.0]]
    assert full.tolist() == [[5.0, 4.0], [13.0, 12.0]]
    assert keep_most_important(reduced.flatten(), 2).tolist() == [True, True, False, False]
    assert keep_most_important(full.flatten(), 2).tolist() == [False, False, True, True]
