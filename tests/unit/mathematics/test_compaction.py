"""The factors that are left after compaction: few numbers, the same Δ as the oracle's."""

import pytest
import torch

import oracle
from lora2.mathematics.compaction import compacted

D_IN, D_OUT, K, R = 7, 5, 3, 4


def pruned(kept: int) -> oracle.Factors:
    torch.manual_seed(kept)
    sizes = ((D_IN, K), (K, R), (R,), (R, K), (K, D_OUT))
    v, u, lam, U, V = (torch.randn(size, dtype=torch.float64) for size in sizes)
    # Any of the values may be left, not only the first ones.
    lam[torch.randperm(R)[kept:]] = 0
    return oracle.Factors(v, u, lam, U, V)


@pytest.mark.parametrize("orthonormalize", [False, True], ids=["raw", "orthonormal"])
@pytest.mark.parametrize("kept", range(R + 1))
def test_delta_stays_and_sizes_are_what_it_needs(kept: int, orthonormalize: bool) -> None:
    parts = pruned(kept)
    small = compacted(*parts, orthonormalize=orthonormalize, length=0.5)
    k = K if kept >= K else kept
    assert {name: tuple(tensor.shape) for name, tensor in small.items()} == {
        "v": (D_IN, k), "u": (k, kept), "lam": (kept,), "U": (kept, k), "V": (k, D_OUT)
    }  # fmt: skip
    if not kept:
        return
    # The columns of v have their length, and the oracle's form needs them at 1 where v is free.
    if 0 < kept < K and not orthonormalize:
        small["v"] = small["v"] / 0.5
    expected = oracle.delta(parts, 1.0, orthonormalize)
    actual = oracle.delta(oracle.Factors(**small), 1.0, orthonormalize)
    oracle.assert_agrees(actual, expected)


@pytest.mark.parametrize("kept", [1, 2])
def test_columns_of_v_are_orthogonal_and_have_the_length(kept: int) -> None:
    small = compacted(*pruned(kept), orthonormalize=True, length=0.5)
    gram = small["v"].mT @ small["v"]
    oracle.assert_agrees(gram, 0.25 * torch.eye(kept, dtype=torch.float64))
    assert torch.equal(small["lam"], torch.ones(kept, dtype=torch.float64))


def test_a_change_that_is_still_zero_can_be_trained_after_it() -> None:
    parts = pruned(2)
    parts.V.zero_()
    small = compacted(*parts, orthonormalize=True, length=0.5)
    assert small["v"].isfinite().all()
    assert torch.linalg.matrix_rank(small["v"]) == 2
    assert not small["V"].any()
