"""Gram matrices X Xᵀ of many thin matrices: what orthogonality asks of them, and all it reads."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from lora2.mathematics.precision import in_full_precision

# Numbers stacked at a time: what is allocated for more than a moment, the system hands out page by
# page, and that takes longer than the products.
_STACKED = 1 << 18


def gram_matrices(matrices: Sequence[Tensor]) -> Tensor:
    """Return X Xᵀ of every X [k, d], [n, k, k] in float32 or wider; d may differ, k may not."""
    grams: Tensor = _GramMatrices.apply(*matrices)
    return grams


class _GramMatrices(torch.autograd.Function):
    """Keeps no copy of X for the backward pass, where dX = (dG + dGᵀ) X is one product."""

    @staticmethod
    def forward(ctx: Any, *matrices: Tensor) -> Tensor:
        ctx.save_for_backward(*matrices)
        k = len(matrices[0])
        grams = in_full_precision(matrices[0]).new_empty(len(matrices), k, k)
        for positions, X in _stacks(matrices):
            grams[positions] = X @ X.mT
        return grams

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        matrices = ctx.saved_tensors
        symmetric = grad + grad.mT
        gradients = list(matrices)
        for positions, X in _stacks(matrices):
            products = (symmetric[positions] @ X).to(matrices[positions[0]].dtype)
            for position, gradient in zip(positions, products.unbind(), strict=True):
                gradients[position] = gradient
        return tuple(gradients)


def _stacks(matrices: Sequence[Tensor]) -> Iterator[tuple[list[int], Tensor]]:
    """Yield stacks [m, k, d] of matrices of one shape, and where these stand in the list."""
    by_shape: dict[torch.Size, list[int]] = {}
    for position, matrix in enumerate(matrices):
        by_shape.setdefault(matrix.shape, []).append(position)
    for shape, positions in by_shape.items():
        size = max(1, _STACKED // max(1, shape.numel()))
        for start in range(0, len(positions), size):
            part = positions[start : start + size]
            yield part, in_full_precision(torch.stack([matrices[i] for i in part]))
