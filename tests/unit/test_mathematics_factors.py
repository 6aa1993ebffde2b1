"""Delta, its two thin factors, the inverse square root and the normal form against the oracle."""

import oracle
import pytest
import torch
from cases import CASE_IDS, CASES, Case

from lora2.mathematics.factors import core, factors, inverse_square_root, normal_form

SCALING = 2.5

each_case = pytest.mark.parametrize("case", CASES, ids=CASE_IDS)
raw_or_orthonormal = pytest.mark.parametrize(
    "orthonormalize", [False, True], ids=["raw", "orthonormal"]
)


def _delta(parts: oracle.Factors, scaling: float, orthonormalize: bool) -> torch.Tensor:
    """The package's delta in the paper's orientation, [d_in, d_out]."""
    B, A = factors(*parts, scaling=scaling, orthonormalize=orthonormalize)
    return (B @ A).mT


def _positive_definite(eigenvalues: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """A matrix with these eigenvalues in a random basis, and its exact inverse square root."""
    generator = torch.Generator().manual_seed(len(eigenvalues))
    size = len(eigenvalues)
    basis = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q
    values = torch.tensor(eigenvalues, dtype=torch.float64)
    return basis @ torch.diag(values) @ basis.T, basis @ torch.diag(values**-0.5) @ basis.T


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
    M = core(parts.v, parts.u, parts.lam, parts.U, orthonormalize=False)
    oracle.assert_agrees(M, oracle.core(parts.u, parts.lam, parts.U))


@each_case
def test_core_stands_behind_the_inverse_square_root(case: Case) -> None:
    parts = case.factors()
    M = core(parts.v, parts.u, parts.lam, parts.U, orthonormalize=True)
    gram = oracle.product(oracle.transpose(parts.v), parts.v)
    root = oracle.inverse_square_root(gram)
    expected = oracle.product(root, oracle.core(parts.u, parts.lam, parts.U))
    oracle.assert_agrees(M, expected)


@each_case
def test_orthonormalised_outer_factor_is_orthonormal_and_spans_the_same(case: Case) -> None:
    v = case.factors().v
    orthonormal = v @ inverse_square_root(v.T @ v)
    oracle.assert_agrees(orthonormal.T @ orthonormal, torch.eye(case.k, dtype=torch.float64))
    oracle.assert_agrees(orthonormal @ orthonormal.T @ v, v)
    oracle.assert_agrees(orthonormal, oracle.orthonormalised(v))


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


# --------------------------------------------------------------------------- inverse square root

SPECTRA = (
    [4.0],
    [0.25, 9.0],
    [1.0, 1.0, 1.0],
    [2.0, 2.0, 5.0],
    [1e-3, 1.0, 3.0, 10.0],
    [0.7, 0.7 + 1e-9, 3.0, 3.0, 3.0],
    [1e-6, 1.0],
    [4e-8, 4e-8, 9e-8],
    [1e4, 3e4, 3e4],
)


@pytest.mark.parametrize("spectrum", SPECTRA, ids=str)
def test_inverse_square_root_of_a_known_spectrum(spectrum: list[float]) -> None:
    gram, expected = _positive_definite(spectrum)
    result = inverse_square_root(gram)
    # A root of the eigenvalues cannot be closer than rounding times the condition of the matrix.
    tolerance = 1e-10 if max(spectrum) / min(spectrum) < 1e5 else 1e-8
    oracle.assert_agrees(result, expected, tolerance)
    oracle.assert_agrees(result, result.mT)


@each_case
def test_inverse_square_root_agrees_with_the_integral(case: Case) -> None:
    v = case.factors().v
    oracle.assert_agrees(inverse_square_root(v.T @ v), oracle.inverse_square_root(v.T @ v))


def test_oracle_of_the_inverse_square_root_meets_its_definition() -> None:
    gram, _ = _positive_definite([0.5, 1.0, 1.0, 8.0])
    root = oracle.inverse_square_root(gram)
    oracle.assert_agrees(root @ gram @ root, torch.eye(4, dtype=torch.float64))
    assert torch.linalg.eigvalsh(root).min() > 0


def test_inverse_square_root_takes_a_batch() -> None:
    pairs = [_positive_definite(spectrum) for spectrum in ([1.0, 1.0], [0.5, 7.0], [2.0, 30.0])]
    batch = torch.stack([gram for gram, _ in pairs])[None]
    expected = torch.stack([root for _, root in pairs])[None]
    oracle.assert_agrees(inverse_square_root(batch), expected)


WELL_CONDITIONED = tuple(spectrum for spectrum in SPECTRA if 1e-3 <= min(spectrum) <= 10)


@pytest.mark.parametrize("spectrum", WELL_CONDITIONED, ids=str)
def test_inverse_square_root_passes_gradcheck_with_equal_eigenvalues_too(
    spectrum: list[float],
) -> None:
    root_of_gram = _positive_definite([value**0.5 for value in spectrum])[0]

    def through_gram(x: torch.Tensor) -> torch.Tensor:
        return inverse_square_root(x.mT @ x)

    assert torch.autograd.gradcheck(through_gram, root_of_gram.requires_grad_())


@pytest.mark.parametrize("spectrum", WELL_CONDITIONED, ids=str)
def test_gradient_of_inverse_square_root_agrees_with_the_integral(spectrum: list[float]) -> None:
    x = _positive_definite([value**0.5 for value in spectrum])[0].requires_grad_()
    weights = torch.arange(1.0, x.numel() + 1, dtype=torch.float64).reshape(x.shape)
    (actual,) = torch.autograd.grad((inverse_square_root(x.mT @ x) * weights).sum(), x)
    (expected,) = torch.autograd.grad((oracle.inverse_square_root(x.mT @ x) * weights).sum(), x)
    scale = expected.abs().max()
    assert scale > 1e-3
    oracle.assert_agrees(actual / scale, expected / scale)


def test_gradient_of_inverse_square_root_at_the_identity_is_minus_half() -> None:
    gram = torch.eye(3, dtype=torch.float64).requires_grad_()
    weights = torch.tensor([[1.0, 2.0, 3.0], [2.0, 4.0, 5.0], [3.0, 5.0, 6.0]]).double()
    (gradient,) = torch.autograd.grad((inverse_square_root(gram) * weights).sum(), gram)
    oracle.assert_agrees(gradient, -0.5 * weights)


@pytest.mark.parametrize("k", [2, 3])
def test_inverse_square_root_stays_finite_when_a_direction_is_lost(k: int) -> None:
    x = torch.zeros(5, k, dtype=torch.float64)
    x[0, 0] = 1.0
    x.requires_grad_()
    result = inverse_square_root(x.mT @ x)
    (gradient,) = torch.autograd.grad(result.sum(), x)
    assert torch.isfinite(result).all()
    assert torch.isfinite(gradient).all()


# ------------------------------------------------------------------------------------ normal form


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
