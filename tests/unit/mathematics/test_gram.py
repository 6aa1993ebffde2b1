"""Gram matrices of many thin matrices against the oracle."""

import pytest
import torch
from torch import Tensor

import oracle
from lora2.mathematics import gram
from lora2.mathematics.gram import gram_matrices

WIDTHS = (5, 7, 5, 2, 5)


def matrices(dtype: torch.dtype = torch.float64, k: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(k, d, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for d in WIDTHS
    ]


@pytest.mark.parametrize("stacked", [1, 20, 1000])
def test_gram_matrices_are_the_oracles_however_many_are_stacked(
    stacked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gram, "_STACKED", stacked)
    factors = matrices()
    weights = torch.arange(45.0, dtype=torch.float64).view(5, 3, 3)
    actual = gram_matrices(factors)
    expected = torch.stack([oracle.product(X, oracle.transpose(X)) for X in factors])
    oracle.assert_agrees(actual, expected)
    got = torch.autograd.grad((actual * weights).sum(), factors)
    wanted = torch.autograd.grad((expected * weights).sum(), factors)
    for one, other in zip(got, wanted, strict=True):
        oracle.assert_agrees(one, other)


def test_gram_matrices_of_half_precision_are_computed_in_float32() -> None:
    factors = matrices(torch.bfloat16)
    grams = gram_matrices(factors)
    assert grams.dtype == torch.float32
    for X, S in zip(factors, grams, strict=True):
        torch.testing.assert_close(S, X.float() @ X.float().T)
    grams.sum().backward()
    assert all(X.grad.dtype == torch.bfloat16 for X in factors)


def test_gram_matrices_take_what_is_frozen() -> None:
    factors = matrices()
    factors[0].requires_grad_(False)
    gram_matrices(factors).sum().backward()
    assert factors[0].grad is None
    assert factors[2].grad is not None
