"""Newton and Schulz's iteration for G^(-1/2): a fixed number of products of small matrices.

Y → (G/s)^(1/2) and Z → (G/s)^(-1/2), by Y ← Y T, Z ← T Z, T = (3 I − Z Y)/2, for any s that brings
all eigenvalues of G/s below 3.
"""

import torch
from torch import Tensor

try:
    # torch brings Triton along where it runs on a GPU, but not on every system.
    from lora2.mathematics.newton_schulz_kernel import in_one_kernel
except ImportError:
    in_one_kernel = None  # type: ignore[assignment]

# A step brings an eigenvalue that is small against the largest nearer to it by a factor of 2.25.
_STEPS = {torch.float32: 22, torch.float64: 32}
# Rows of a matrix of which a multiprocessor's registers hold the four that the kernel needs.
_MOST_ROWS = 64


def newton_schulz(G: Tensor, scale: Tensor) -> Tensor:
    """Return G^(-1/2); G [n, m, m], scale [n, 1, 1] = s.

    G may be [[G', D], [0, G']] with a symmetric G': its upper right block is then the derivative
    of G'^(-1/2) along D.
    """
    fits = G.is_cuda and G.dtype == torch.float32 and G.shape[-1] <= _MOST_ROWS
    if in_one_kernel is not None and fits:
        return in_one_kernel(G, scale, _STEPS[G.dtype])
    return by_products(G, scale)


def by_products(G: Tensor, scale: Tensor) -> Tensor:
    """Return what `newton_schulz` does, by three batched products a step."""
    identity = torch.eye(G.shape[-1], dtype=G.dtype, device=G.device).expand_as(G)
    Y, Z = G / scale, identity
    for _ in range(_STEPS[G.dtype]):
        T = torch.baddbmm(identity, Z, Y, beta=1.5, alpha=-0.5)
        Y, Z = Y @ T, T @ Z
    return Z / scale.sqrt()
