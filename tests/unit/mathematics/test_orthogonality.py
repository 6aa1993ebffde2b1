"""The penalty from k x k Gram matrices against the d x d and r x r norms that the paper prints."""

import pytest
import torch

import oracle
from cases import CASE_IDS, CASES, Case
from lora2.mathematics.orthogonality import ORTHOGONALITY_TERMS, deviation, penalty

each_case = pytest.mark.parametrize("case", CASES, ids=CASE_IDS)
each_choice = pytest.mark.parametrize("choice", oracle.CHOICES)


def _penalty(parts: oracle.Factors, choice: str) -> torch.Tensor:
    S_v, S_V = parts.v.mT @ parts.v, parts.V @ parts.V.mT
    return penalty(S_v, S_V, parts.u, parts.U, choice)  # type: ignore[arg-type]


def _orthonormal(case: Case) -> oracle.Factors:
    """The best factors of these shapes: the short side of each is orthonormal."""

    def along_the_short_side(matrix: torch.Tensor) -> torch.Tensor:
        tall = matrix.shape[0] >= matrix.shape[1]
        q = torch.linalg.qr(matrix if tall else matrix.T).Q
        return q if tall else q.T

    v, u, lam, U, V = case.factors()
    return oracle.Factors(
        along_the_short_side(v),
        along_the_short_side(u),
        lam,
        along_the_short_side(U),
        along_the_short_side(V),
    )


def test_choices_are_those_of_table_3() -> None:
    assert set(ORTHOGONALITY_TERMS) == set(oracle.CHOICES)
    assert len(oracle.CHOICES) == 5


@each_choice
@each_case
def test_penalty_is_the_printed_one_less_its_constant(case: Case, choice: str) -> None:
    parts = case.factors()
    constant = oracle.least_printed_penalty(case.d_in, case.k, case.r, choice)
    oracle.assert_agrees(_penalty(parts, choice) + constant, oracle.printed_penalty(parts, choice))
    oracle.assert_agrees(_penalty(parts, choice), oracle.constant_free_penalty(parts, choice))


@each_choice
@each_case
def test_gradients_are_those_of_the_printed_form(case: Case, choice: str) -> None:
    parts = case.factors(requires_grad=True)
    actual = oracle.gradients(_penalty(parts, choice), parts)
    expected = oracle.gradients(oracle.printed_penalty(parts, choice), parts)
    for got, wanted in zip(actual, expected, strict=True):
        oracle.assert_agrees(got, wanted)
    assert max(gradient.abs().max() for gradient in expected) > 0.1


@each_choice
def test_penalty_passes_gradcheck(choice: str) -> None:
    parts = CASES[0].factors(requires_grad=True)
    inputs = (parts.v, parts.u, parts.U, parts.V)
    assert torch.autograd.gradcheck(
        lambda v, u, U, V: _penalty(parts._replace(v=v, u=u, U=U, V=V), choice), inputs
    )


@each_choice
@each_case
def test_penalty_is_zero_at_the_best_factors_of_a_shape(case: Case, choice: str) -> None:
    parts = oracle.Factors(*(tensor.requires_grad_() for tensor in _orthonormal(case)))
    value = _penalty(parts, choice)
    oracle.assert_agrees(value, torch.zeros((), dtype=torch.float64))
    for gradient in oracle.gradients(value, parts):
        oracle.assert_agrees(gradient, torch.zeros_like(gradient))
    least = oracle.least_printed_penalty(case.d_in, case.k, case.r, choice)
    oracle.assert_agrees(
        oracle.printed_penalty(parts, choice), torch.tensor(float(least), dtype=torch.float64)
    )


@each_choice
def test_leading_dimensions_are_a_batch(choice: str) -> None:
    for case in (CASES[0], CASES[2]):
        entries = [
            Case("entry", case.d_in, case.d_out, case.k, case.r, seed).factors()
            for seed in range(4)
        ]
        stacked = oracle.Factors(
            *(torch.stack(same).unflatten(0, (2, 2)) for same in zip(*entries, strict=True))
        )
        values = _penalty(stacked, choice)
        assert values.shape == (2, 2)
        expected = torch.stack([oracle.constant_free_penalty(entry, choice) for entry in entries])
        oracle.assert_agrees(values.flatten(), expected)


@pytest.mark.parametrize(("rows", "columns"), [(2, 5), (5, 2), (3, 3), (1, 4)])
def test_deviation_of_a_gram_matrix_is_the_squared_norm(rows: int, columns: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    oracle.assert_agrees(deviation(x @ x.T), oracle.distance_from_identity(x @ x.T))


def test_adapter_without_singular_values_is_penalised_for_its_outer_pair_only() -> None:
    """r = 0 is what is left of a matrix whose singular values were all pruned."""
    parts = Case("empty", d_in=5, d_out=4, k=2, r=0, seed=1).factors()
    outer_left = oracle.distance_from_identity(oracle.product(parts.v.T, parts.v))
    outer_right = oracle.distance_from_identity(oracle.product(parts.V, parts.V.T))
    oracle.assert_agrees(_penalty(parts, "uv"), outer_left)
    oracle.assert_agrees(_penalty(parts, "UV"), outer_right)
    oracle.assert_agrees(_penalty(parts, "P&Q"), torch.zeros((), dtype=torch.float64))
    oracle.assert_agrees(_penalty(parts, "all"), outer_left + outer_right)
