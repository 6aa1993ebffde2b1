"""G^(-1/2) of small symmetric matrices, and its derivative, in two ways.

By eigenvalues on the CPU, exact to rounding. By matrix products alone on a GPU, where a call for
eigenvalues would make the host wait for the device.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lora2.mathematics.newton_schulz import newton_schulz

# Below this share of the mean eigenvalue a direction counts as lost; it keeps x^(-1/2) finite.
_SMALLEST_EIGENVALUE = 1e-10


def inverse_square_root(gram: Tensor) -> Tensor:
    """Return G^(-1/2) of a symmetric positive definite matrix; gram [..., k, k]."""
    if gram.shape[-1] == 1:
        return gram.rsqrt()
    by = ByEigenvalues if gram.device.type == "cpu" else ByProducts
    return by.apply(gram)


class ByEigenvalues(torch.autograd.Function):
    """Eigendecomposition, with the derivative written out.

    Autograd through `eigh` divides by differences of eigenvalues, which are all zero at the start,
    where G is a multiple of I. For X = G^(-1/2) = E s^(-1) Eᵀ the derivative is exact without them:
    Eᵀ dX E = K ∘ (Eᵀ dG E),  K_ij = -1 / (s_i s_j (s_i + s_j)).
    """

    @staticmethod
    def forward(ctx: Any, gram: Tensor) -> Tensor:
        """Return G^(-1/2)."""
        eigenvalues, E = _eigh(gram)
        floor = _SMALLEST_EIGENVALUE * eigenvalues.mean(-1, keepdim=True)
        s = torch.maximum(eigenvalues, floor).sqrt()
        ctx.save_for_backward(s, E)
        return (E / s.unsqueeze(-2)) @ E.mT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Return the gradient of G."""
        s, E = ctx.saved_tensors
        rows, columns = s.unsqueeze(-1), s.unsqueeze(-2)
        K = -1 / (rows * columns * (rows + columns))
        return E @ (K * (E.mT @ grad @ E)) @ E.mT


def _eigh(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and vectors; of a matrix with NaN or infinity the eigenvalues are NaN."""
    try:
        eigenvalues, E = torch.linalg.eigh(gram)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        # It names no layer. A NaN in the result goes on to the checks that do.
        broken = ~torch.isfinite(gram).flatten(-2).all(-1, keepdim=True)
        if not broken.any():
            raise
        identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        eigenvalues, E = torch.linalg.eigh(torch.where(broken.unsqueeze(-1), identity, gram))
        eigenvalues = eigenvalues.masked_fill(broken, torch.nan)
    return eigenvalues, E


class ByProducts(torch.autograd.Function):
    """Newton and Schulz's iteration.

    For any matrix function f([[G, D], [0, G]]) = [[f(G), f'(G) D], [0, f(G)]], and for a symmetric
    G the derivative is its own adjoint: the gradient is the same iteration, on a larger matrix.
    """

    @staticmethod
    def forward(ctx: Any, gram: Tensor) -> Tensor:
        """Return G^(-1/2)."""
        ctx.save_for_backward(gram)
        stacked = gram.flatten(0, -3) if gram.dim() > 2 else gram.unsqueeze(0)
        return newton_schulz(stacked, _scale(stacked)).view(gram.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Return the gradient of G."""
        (gram,) = ctx.saved_tensors
        k = gram.shape[-1]
        upper = torch.cat([gram, grad], -1)
        lower = torch.cat([torch.zeros_like(gram), gram], -1)
        blocks = torch.cat([upper, lower], -2).view(-1, 2 * k, 2 * k)
        return newton_schulz(blocks, _scale(gram).view(-1, 1, 1))[:, :k, k:].reshape(gram.shape)


def _scale(gram: Tensor) -> Tensor:
    """A bound on the largest eigenvalue, [..., 1, 1], since the iteration needs all below 3."""
    return torch.linalg.matrix_norm(gram, keepdim=True)
