"""Newton and Schulz's iteration as one Triton kernel, which keeps each matrix in registers.

By products the iteration is 66 kernels, each of which takes longer to start than to compute.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

# The least that tl.dot takes.
_SMALLEST = 16


def in_one_kernel(G: Tensor, scale: Tensor, steps: int) -> Tensor:
    """Return G^(-1/2) in float32; G [n, m, m], scale [n, 1, 1] (see `newton_schulz`)."""
    root = torch.empty_like(G, memory_format=torch.contiguous_format)
    n, m, _ = G.shape
    padded = max(_SMALLEST, triton.next_power_of_2(m))
    # Triton starts a kernel on the current device, and a model may be split over several.
    with torch.cuda.device(G.device):
        _iterate[(n,)](G.contiguous(), scale.contiguous(), root, m, padded, steps)
    return root


@triton.jit
def _iterate(  # type: ignore[no-untyped-def]
    G, scale, root, m, M: tl.constexpr, steps: tl.constexpr
):
    matrix = tl.program_id(0)
    row, column = tl.arange(0, M)[:, None], tl.arange(0, M)[None, :]
    place = matrix * m * m + row * m + column
    inside = (row < m) & (column < m)
    identity = (row == column).to(tl.float32)
    s = tl.load(scale + matrix)
    # The matrix is padded with the identity, which the iteration leaves as it is.
    Y = tl.where(inside, tl.load(G + place, mask=inside, other=0.0) / s, identity)
    Z = identity
    for _ in range(steps):
        T = 1.5 * identity - 0.5 * tl.dot(Z, Y, input_precision="ieee")
        Y = tl.dot(Y, T, input_precision="ieee")
        Z = tl.dot(T, Z, input_precision="ieee")
    tl.store(root + place, Z / tl.sqrt(s), mask=inside)
