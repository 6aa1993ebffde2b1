"""G^(-1/2), which makes the outer factor orthonormal: values, gradients, equal eigenvalues."""

from collections.abc import Callable

import pytest
import torch

import oracle
from cases import CASE_IDS, CASES, Case
from lora2.mathematics.inverse_square_root import ByEigenvalues, ByProducts, inverse_square_root

each_case = pytest.mark.parametrize("case", CASES, ids=CASE_IDS)
Root = Callable[[torch.Tensor], torch.Tensor]
each_way = pytest.mark.parametrize(
    "root", [ByEigenvalues.apply, ByProducts.apply], ids=["by_eigenvalues", "by_products"]
)


def _positive_definite(eigenvalues: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """A matrix with these eigenvalues in a random basis, and its exact inverse square root."""
    generator = torch.Generator().manual_seed(len(eigenvalues))
    size = len(eigenvalues)
    basis = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q
    values = torch.tensor(eigenvalues, dtype=torch.float64)
    return basis @ torch.diag(values) @ basis.T, basis @ torch.diag(values**-0.5) @ basis.T


@each_case
@each_way
def test_orthonormalised_outer_factor_is_orthonormal_and_spans_the_same(
    case: Case, root: Root
) -> None:
    v = case.factors().v
    orthonormal = v @ root(v.T @ v)
    oracle.assert_agrees(orthonormal.T @ orthonormal, torch.eye(case.k, dtype=torch.float64))
    oracle.assert_agrees(orthonormal @ orthonormal.T @ v, v)
    oracle.assert_agrees(orthonormal, oracle.orthonormalised(v))


@each_way
@pytest.mark.parametrize("start", ["multiple of I", "random"])
def test_second_derivative(root: Root, start: str) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    identity = torch.eye(3, dtype=torch.float64).expand(2, 3, 3)
    gram = (identity / 3 if start == "multiple of I" else rows @ rows.mT).clone().requires_grad_()

    def symmetric_root(matrix: torch.Tensor) -> torch.Tensor:
        return root((matrix + matrix.mT) / 2)

    assert torch.autograd.gradgradcheck(symmetric_root, (gram,))


# torch's own, in its forward mode.
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_functorch_has_the_same_second_derivative() -> None:
    rows = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gram = rows @ rows.mT

    def of_root(matrix: torch.Tensor) -> torch.Tensor:
        return inverse_square_root((matrix + matrix.mT) / 2).pow(3).sum()

    expected = torch.autograd.functional.hessian(of_root, gram)
    torch.testing.assert_close(torch.func.hessian(of_root)(gram), expected)


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
@each_way
def test_inverse_square_root_of_a_known_spectrum(spectrum: list[float], root: Root) -> None:
    gram, expected = _positive_definite(spectrum)
    result = root(gram)
    # A root of the eigenvalues cannot be closer than rounding times the condition of the matrix.
    tolerance = 1e-10 if max(spectrum) / min(spectrum) < 1e5 else 1e-8
    oracle.assert_agrees(result, expected, tolerance)
    oracle.assert_agrees(result, result.mT)


@each_case
@each_way
def test_inverse_square_root_agrees_with_the_integral(case: Case, root: Root) -> None:
    v = case.factors().v
    oracle.assert_agrees(root(v.T @ v), oracle.inverse_square_root(v.T @ v))


def test_oracle_of_the_inverse_square_root_meets_its_definition() -> None:
    gram, _ = _positive_definite([0.5, 1.0, 1.0, 8.0])
    root = oracle.inverse_square_root(gram)
    oracle.assert_agrees(root @ gram @ root, torch.eye(4, dtype=torch.float64))
    assert torch.linalg.eigvalsh(root).min() > 0


@each_way
def test_inverse_square_root_takes_a_batch(root: Root) -> None:
    pairs = [_positive_definite(spectrum) for spectrum in ([1.0, 1.0], [0.5, 7.0], [2.0, 30.0])]
    batch = torch.stack([gram for gram, _ in pairs])[None]
    expected = torch.stack([root for _, root in pairs])[None]
    oracle.assert_agrees(root(batch), expected)


WELL_CONDITIONED = tuple(spectrum for spectrum in SPECTRA if 1e-3 <= min(spectrum) <= 10)


@pytest.mark.parametrize("spectrum", WELL_CONDITIONED, ids=str)
@each_way
def test_inverse_square_root_passes_gradcheck_with_equal_eigenvalues_too(
    spectrum: list[float], root: Root
) -> None:
    root_of_gram = _positive_definite([value**0.5 for value in spectrum])[0]

    def through_gram(x: torch.Tensor) -> torch.Tensor:
        return root(x.mT @ x)

    assert torch.autograd.gradcheck(through_gram, root_of_gram.requires_grad_())


@pytest.mark.parametrize("spectrum", WELL_CONDITIONED, ids=str)
@each_way
def test_gradient_of_inverse_square_root_agrees_with_the_integral(
    spectrum: list[float], root: Root
) -> None:
    x = _positive_definite([value**0.5 for value in spectrum])[0].requires_grad_()
    weights = torch.arange(1.0, x.numel() + 1, dtype=torch.float64).reshape(x.shape)
    (actual,) = torch.autograd.grad((root(x.mT @ x) * weights).sum(), x)
    (expected,) = torch.autograd.grad((oracle.inverse_square_root(x.mT @ x) * weights).sum(), x)
    scale = expected.abs().max()
    assert scale > 1e-3
    oracle.assert_agrees(actual / scale, expected / scale)


@each_way
def test_gradient_of_inverse_square_root_at_the_identity_is_minus_half(root: Root) -> None:
    gram = torch.eye(3, dtype=torch.float64).requires_grad_()
    weights = torch.tensor([[1.0, 2.0, 3.0], [2.0, 4.0, 5.0], [3.0, 5.0, 6.0]]).double()
    (gradient,) = torch.autograd.grad((root(gram) * weights).sum(), gram)
    oracle.assert_agrees(gradient, -0.5 * weights)


@pytest.mark.parametrize("k", [2, 3])
@each_way
def test_inverse_square_root_stays_finite_when_a_direction_is_lost(k: int, root: Root) -> None:
    x = torch.zeros(5, k, dtype=torch.float64)
    x[0, 0] = 1.0
    x.requires_grad_()
    result = root(x.mT @ x)
    (gradient,) = torch.autograd.grad(result.sum(), x)
    assert torch.isfinite(result).all()
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@each_way
def test_a_matrix_with_nan_becomes_nan_and_the_others_of_its_batch_do_not(
    bad: float, root: Root
) -> None:
    batch = torch.eye(3, dtype=torch.float64).repeat(2, 1, 1)
    batch[0, 1, 1] = bad
    result = root(batch)
    assert not torch.isfinite(result[0]).all()
    torch.testing.assert_close(result[1], batch[1])
