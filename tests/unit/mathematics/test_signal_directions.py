"""Directions of largest signal to noise, against the generalized eigenvalue problem as written."""

import numpy as np
import pytest
import scipy.linalg
import torch

from lora2.mathematics.signal_directions import signal_directions


def oracle(gradients: np.ndarray, count: int, ridge: float) -> np.ndarray:
    """An orthonormal basis of the best directions, by dense d_in × d_in matrices."""
    mean = gradients.mean(0)
    noise = sum((each - mean).T @ (each - mean) for each in gradients) / len(gradients)
    noise += ridge * np.trace(noise) / len(noise) * np.eye(len(noise))
    _, vectors = scipy.linalg.eigh(mean.T @ mean, noise)
    return np.linalg.qr(vectors[:, ::-1][:, :count])[0].T


def drawn(batches: int, rows: int, d_in: int) -> torch.Tensor:
    torch.manual_seed(0)
    scales = torch.linspace(0.1, 3, d_in, dtype=torch.float64)
    common = torch.randn(rows, d_in, dtype=torch.float64)
    return common + scales * torch.randn(batches, rows, d_in, dtype=torch.float64)


@pytest.mark.parametrize("ridge", [1e-2, 1.0])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    ("batches", "rows", "d_in"), [(2, 4, 20), (5, 7, 12), (16, 3, 48), (3, 30, 6)]
)
def test_directions_are_the_generalized_eigenvectors(batches, rows, d_in, count, ridge):
    gradients = drawn(batches, rows, d_in)
    found = signal_directions(gradients, count, ridge=ridge)
    expected = oracle(gradients.numpy(), count, ridge)
    assert torch.allclose(found @ found.mT, torch.eye(count, dtype=torch.float64))
    # The same space: all cosines between the two bases are 1.
    cosines = np.linalg.svd(found.numpy() @ expected.T)[1]
    assert cosines == pytest.approx(np.ones(count), abs=1e-6)


def test_the_scale_of_the_gradients_does_not_matter():
    gradients = drawn(5, 4, 10)
    found = signal_directions(gradients, 1, ridge=1.0)
    scaled = signal_directions(1e-6 * gradients.float(), 1, ridge=1.0)
    assert float((found @ scaled.mT).abs()) == pytest.approx(1, abs=1e-6)


def test_a_weak_common_direction_is_found_where_others_are_strong_and_scatter():
    torch.manual_seed(0)
    # Each batch pushes strongly along the first axis, by chance; all push weakly along the second.
    signs = torch.tensor([1.0, -1, 1, -1, 1, -1, 1, 1])
    gradients = 0.01 * torch.randn(8, 1, 5)
    gradients[:, 0, 0] += 10 * signs
    gradients[:, 0, 1] += 1
    strongest = torch.linalg.svd(gradients.mean(0)).Vh[0]
    (found,) = signal_directions(gradients, 1, ridge=1e-2)
    assert strongest[0].abs() > 0.9
    assert found[1].abs() > 0.9


def test_there_are_no_more_directions_than_the_mean_has():
    gradients = drawn(6, 2, 10)
    assert signal_directions(gradients, 5, ridge=1.0).shape == (2, 10)
    assert signal_directions(torch.zeros(6, 2, 10), 5, ridge=1.0).shape == (0, 10)


def test_gradients_without_scatter_give_the_singular_vectors_of_their_mean():
    same = drawn(1, 3, 10).expand(4, 3, 10)
    found = signal_directions(same, 3, ridge=1.0)
    expected = torch.linalg.svd(same[0], full_matrices=False).Vh
    assert torch.linalg.svdvals(found @ expected.mT) == pytest.approx(torch.ones(3))
