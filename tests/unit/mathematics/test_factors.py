"""Delta, its two thin factors and its normal form against the oracle."""

import pytest
import torch

import oracle
from cases import CASE_IDS, CASES, Case
from lora2.mathematics.factors import core, factors, normal_form

SCALING = 2.5

each_case = pytest.mark.parametrize("case", CASES, ids=CASE_IDS)
raw_or_orthonormal = pytest.mark.parametrize(
    "orthonormalize", [False, True], ids=["raw", "orthonormal"]
)


def _delta(parts: oracle.Factors, scaling: float, orthonormalize: bool) -> torch.Tensor:
    """The package's delta in the paper's orientation, [d_in, d_out]."""
    B, A = factors(*parts, scaling=scaling, orthonormalize=orthonormalize)
    return (B @ A).mT


@raw_or_orthonormal
@each_case
def test_product_of_the_factors_is_the_scaled_delta(case: Case, orthonormalize: bool) -> None:
    parts = case.factors()
    B, A = factors(*parts, scaling=SCALING, orthonormalize=orthonormalize)
    assert B.shape == (case.d_out, case.k)
    assert A.shape == (case.k, case.d_in)
    expected = oracle.delta(parts, SCALING, orthonormalize)
    oracle.assert_agrees((B @ A).mT, expected)


@raw_or_orthonormal
@each_case
def test_gradients_of_delta_are_those_of_the_dense_form(case: Case, orthonormalize: bool) -> None:
    parts = case.factors(requires_grad=True)
    direction = case.direction()
    actual = (_delta(parts, SCALING, orthonormalize) * direction).sum()
    expected = (oracle.delta(parts, SCALING, orthonormalize) * direction).sum()
    for name, got, wanted in zip(
        oracle.Factors._fields,
        oracle.gradients(actual, parts),
        oracle.gradients(expected, parts),
        strict=True,
    ):
        assert wanted.abs().max() > 1e-3, name
        oracle.assert_agrees(got, wanted)


@raw_or_orthonormal
@each_case
def test_gradients_of_delta_pass_gradcheck(case: Case, orthonormalize: bool) -> None:
    parts = case.factors(requires_grad=True)

    def dense(*tensors: torch.Tensor) -> torch.Tensor:
        return _delta(oracle.Factors(*tensors), SCALING, orthonormalize)

    assert torch.autograd.gradcheck(dense, tuple(parts), fast_mode=True)


@each_case
def test_core_is_the_inner_product(case: Case) -> None:
    parts = case.factors()
    M = core(parts.u, parts.lam, parts.U, scaling=SCALING)
    oracle.assert_agrees(M, SCALING * oracle.core(parts.u, parts.lam, parts.U))


@each_case
def test_core_stands_behind_the_inverse_square_root(case: Case) -> None:
    parts = case.factors()
    gram = oracle.product(oracle.transpose(parts.v), parts.v)
    M = core(parts.u, parts.lam, parts.U, gram=gram)
    root = oracle.inverse_square_root(gram)
    expected = oracle.product(root, oracle.core(parts.u, parts.lam, parts.U))
    oracle.assert_agrees(M, expected)


@raw_or_orthonormal
def test_scale_of_raw_outer_factor_matters_only_without_orthonormalisation(
    orthonormalize: bool,
) -> None:
    parts = CASES[0].factors()
    larger = parts._replace(v=3.0 * parts.v)
    factor = 1.0 if orthonormalize else 3.0
    oracle.assert_agrees(
        _delta(larger, SCALING, orthonormalize), factor * _delta(parts, SCALING, orthonormalize)
    )


@raw_or_orthonormal
def test_leading_dimensions_are_a_batch(orthonormalize: bool) -> None:
    case = CASES[0]
    entries = [
        Case("entry", case.d_in, case.d_out, case.k, case.r, seed).factors() for seed in range(6)
    ]
    stacked = oracle.Factors(
        *(torch.stack(same).unflatten(0, (2, 3)) for same in zip(*entries, strict=True))
    )
    batched = _delta(stacked, SCALING, orthonormalize)
    assert batched.shape == (2, 3, case.d_in, case.d_out)
    for single, entry in zip(batched.flatten(0, 1), entries, strict=True):
        oracle.assert_agrees(single, oracle.delta(entry, SCALING, orthonormalize))


@raw_or_orthonormal
def test_factors_keep_the_dtype(orthonormalize: bool) -> None:
    parts = oracle.Factors(*(tensor.float() for tensor in CASES[0].factors()))
    B, A = factors(*parts, scaling=SCALING, orthonormalize=orthonormalize)
    assert B.dtype == A.dtype == torch.float32
    expected = oracle.delta(CASES[0].factors(), SCALING, orthonormalize)
    oracle.assert_agrees((B @ A).mT.double(), expected, tolerance=1e-4)


@raw_or_orthonormal
def test_adapter_without_singular_values_is_zero(orthonormalize: bool) -> None:
    """r = 0 is what is left of a matrix whose singular values were all pruned."""
    parts = Case("empty", d_in=5, d_out=4, k=2, r=0, seed=1).factors()
    zero = torch.zeros(5, 4, dtype=torch.float64)
    oracle.assert_agrees(_delta(parts, SCALING, orthonormalize), zero)
    _, sigma, _ = normal_form(*parts, orthonormalize=orthonormalize)
    oracle.assert_agrees(sigma, torch.zeros(2, dtype=torch.float64))


@raw_or_orthonormal
@each_case
def test_normal_form_is_the_singular_value_decomposition(case: Case, orthonormalize: bool) -> None:
    parts = case.factors()
    P, sigma, Q = normal_form(*parts, orthonormalize=orthonormalize)
    assert P.shape == (case.d_in, case.k)
    assert sigma.shape == (case.k,)
    assert Q.shape == (case.k, case.d_out)
    expected = oracle.delta(parts, 1.0, orthonormalize)
    oracle.assert_agrees(P @ torch.diag(sigma) @ Q, expected)
    oracle.assert_agrees(P.T @ P, torch.eye(case.k, dtype=torch.float64))
    oracle.assert_agrees(Q @ Q.T, torch.eye(case.k, dtype=torch.float64))
    singular_values = torch.linalg.svdvals(expected)
    oracle.assert_agrees(sigma, singular_values[: case.k])


def test_normal_form_takes_a_batch() -> None:
    case = CASES[2]
    entries = [
        Case("entry", case.d_in, case.d_out, case.k, case.r, seed).factors() for seed in range(3)
    ]
    stacked = [torch.stack(same) for same in zip(*entries, strict=True)]
    P, sigma, Q = normal_form(*stacked, orthonormalize=True)
    for index, entry in enumerate(entries):
        oracle.assert_agrees(
            P[index] @ torch.diag(sigma[index]) @ Q[index], oracle.delta(entry, 1.0, True)
        )
