"""G^(-1/2) of small symmetric matrices, and its derivative, in two ways.

By eigenvalues on the CPU, exact to rounding. By matrix products alone on a GPU, where a call for
eigenvalues would make the host wait for the device. Both write down the first derivative; a second
one, and functorch, take `_derivative`, whose operations autograd follows to any order.
"""

from typing import Any

import torch
from torch import Tensor

from lora2.mathematics.newton_schulz import by_products, newton_schulz
from lora2.mathematics.transforms import is_differentiated_again, is_traced, is_transformed


def inverse_square_root(gram: Tensor) -> Tensor:
    """Return G^(-1/2) of a symmetric positive definite matrix; gram [..., k, k]."""
    if gram.shape[-1] == 1:
        return gram.rsqrt()
    if is_transformed():
        return ByRules.apply(gram)
    if is_traced():
        # Plain operations, of which autograd knows the derivative where eigenvalues are equal, too.
        stacked = gram.flatten(0, -3) if gram.dim() > 2 else gram.unsqueeze(0)
        return by_products(stacked, _scale(stacked)).view(gram.shape)
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
        X, s, E = _by_eigenvalues(gram)
        ctx.save_for_backward(gram, s, E)
        return X

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Return the gradient of G."""
        gram, s, E = ctx.saved_tensors
        if is_differentiated_again():
            return _derivative(gram, inverse_square_root(gram), grad)
        rows, columns = s.unsqueeze(-1), s.unsqueeze(-2)
        K = -1 / (rows * columns * (rows + columns))
        return E @ (K * (E.mT @ grad @ E)) @ E.mT


def _by_eigenvalues(gram: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return (G^(-1/2), roots s of the eigenvalues, eigenvectors E)."""
    # Below this share of the mean eigenvalue a direction counts as lost; it keeps x^(-1/2) finite.
    # It is no constant of the module: `torch.compile(dynamic=True)` takes such a float for an
    # input of the graph, and torch 2.13 cannot hand one to a second autograd Function.
    smallest_share = 1e-10
    eigenvalues, E = _eigh(gram)
    floor = smallest_share * eigenvalues.mean(-1, keepdim=True)
    s = torch.maximum(eigenvalues, floor).sqrt()
    return (E / s.unsqueeze(-2)) @ E.mT, s, E


def _eigh(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and vectors; of a matrix with NaN or infinity the eigenvalues are NaN."""
    try:
        eigenvalues, E = torch.linalg.eigh(gram)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        # It names no layer. A NaN in the result reaches the checks that do.
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
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Return the gradient of G."""
        (gram,) = ctx.saved_tensors
        if is_differentiated_again():
            return _derivative(gram, inverse_square_root(gram), grad)
        k = gram.shape[-1]
        upper = torch.cat([gram, grad], -1)
        lower = torch.cat([torch.zeros_like(gram), gram], -1)
        blocks = torch.cat([upper, lower], -2).view(-1, 2 * k, 2 * k)
        return newton_schulz(blocks, _scale(gram).view(-1, 1, 1))[:, :k, k:].reshape(gram.shape)


def _scale(gram: Tensor) -> Tensor:
    """A bound on the largest eigenvalue, [..., 1, 1], since the iteration needs all below 3."""
    return torch.linalg.matrix_norm(gram, keepdim=True)


class ByRules(torch.autograd.Function):
    """Eigendecomposition, with what functorch and forward mode ask for."""

    generate_vmap_rule = True

    @staticmethod
    def forward(gram: Tensor) -> Tensor:
        """Return G^(-1/2)."""
        return _by_eigenvalues(gram)[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """Keep G and G^(-1/2) for the derivatives."""
        ctx.save_for_backward(*inputs, output)
        ctx.save_for_forward(*inputs, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Return the gradient of G."""
        gram, X = ctx.saved_tensors
        return _derivative(gram, X, grad)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        """Return the change of G^(-1/2) when G changes by the tangent."""
        gram, X = ctx.saved_tensors
        return _derivative(gram, X, tangent)


def _derivative(gram: Tensor, X: Tensor, direction: Tensor) -> Tensor:
    """Return the change of X = G^(-1/2) when G changes by D: its own adjoint, for a symmetric G.

    With S = G X = G^(1/2): S dS + dS S = D and dX = -X dS X. The first is a linear system of k²
    equations, (S ⊗ I + I ⊗ S) vec(dS) = vec(D).
    """
    k = gram.shape[-1]
    S = gram @ X
    identity = torch.eye(k, dtype=gram.dtype, device=gram.device)
    # Entry (i j), (a b) is S_ia δ_jb + δ_ia S_jb.
    system = torch.einsum("...ia,jb->...ijab", S, identity)
    system = system + torch.einsum("ia,...jb->...ijab", identity, S)
    system = system.flatten(-2).flatten(-3, -2)
    dS = torch.linalg.solve(system, direction.flatten(-2).unsqueeze(-1))
    return -X @ dS.squeeze(-1).unflatten(-1, (k, k)) @ X
