"""Gram matrices X Xᵀ of many thin matrices: what orthogonality asks of them, and all it reads."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from lora2.mathematics.precision import in_full_precision
from lora2.mathematics.stacks import stacks
from lora2.mathematics.transforms import is_traced, is_transformed

# Numbers stacked at a time on a CPU: what is allocated for more than a moment, the system hands out
# page by page, and that takes longer than the products.
_STACKED = 1 << 18


def gram_matrices(matrices: Sequence[Tensor]) -> Tensor:
    """Return X Xᵀ of every X [k, d], [n, k, k] in float32 or wider; d may differ, k may not."""
    if is_transformed() or is_traced():
        whole = [in_full_precision(X) for X in matrices]
        return torch.stack([X @ X.mT for X in whole])
    grams: Tensor = _GramMatrices.apply(*matrices)
    return grams


class _GramMatrices(torch.autograd.Function):
    """Keeps no copy of X for the backward pass, where dX = (dG + dGᵀ) X is one product."""

    @staticmethod
    def forward(ctx: Any, *matrices: Tensor) -> Tensor:
        ctx.save_for_backward(*matrices)
        grams = list(matrices)
        for positions, X in _stacks(matrices):
            for position, gram in zip(positions, (X @ X.mT).unbind(), strict=True):
                grams[position] = gram
        return torch.stack(grams)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        matrices = ctx.saved_tensors
        # An index by a list of positions would go to a GPU and make the host wait.
        symmetric = (grad + grad.mT).unbind()
        gradients = list(matrices)
        for positions, X in _stacks(matrices):
            products = torch.stack([symmetric[i] for i in positions]) @ X
            products = products.to(matrices[positions[0]].dtype)
            for position, gradient in zip(positions, products.unbind(), strict=True):
                gradients[position] = gradient
        return tuple(gradients)


def _stacks(matrices: Sequence[Tensor]) -> Iterator[tuple[list[int], Tensor]]:
    for positions, X in stacks(matrices, _STACKED if matrices[0].is_cpu else None):
        yield positions, in_full_precision(X)
