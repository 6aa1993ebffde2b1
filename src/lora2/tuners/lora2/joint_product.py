"""y = W x + b + B (A x) as one step of the backward pass, with A = (v C)ᵀ and B = 𝒱ᵀ.

A thin product costs little arithmetic, so what it costs is passes over the activations and the
matrix kernel that its layout calls. Four things make it cheap:

* `addmm_` adds B (A x) into the base output, and Aᵀ Bᵀ g into the input's gradient, in place;
* only x, A x and the factors are kept for the backward pass;
* A and Bᵀ are stored with their long side contiguous, and the gradients are taken as (A x)ᵀ g and
  (Bᵀ g)ᵀ x, k rows of d. Autograd's own gᵀ (A x), d rows of k, is five to ten times slower;
* each CPU thread takes a part of the tokens, in place of whatever the matrix library would share.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lora2.mathematics.transforms import is_differentiated_again, is_dispatched
from lora2.support.half_precision import SLOW_ON_CPU

# Numbers in a row from which on x Aᵀ gains by being split too.
_LONG_ROW = 640
_SPLIT_DTYPES = (torch.float32, torch.float64)


class _JointProduct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, A: Tensor, V: Tensor
    ) -> Tensor:
        rows = _rows(x)
        ctx.parts = _parts(rows)
        thin = _thin(rows, A, ctx.parts)
        ctx.save_for_backward(x, weight, A, V, thin)
        y = _with_product(F.linear(rows, weight, bias), thin, V)
        # As torch's own matmul does: autograd refuses in-place operations on a view made here.
        reshaped: Tensor = torch.ops.aten._unsafe_view(y, (*x.shape[:-1], y.shape[-1]))
        return reshaped

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, A, V, thin = ctx.saved_tensors
        wants_x, _, wants_bias, wants_A, wants_V = ctx.needs_input_grad
        shape, x, g = x.shape, _rows(x), _rows(g)
        if is_differentiated_again():
            # What was kept has no graph that leads to x and A.
            thin = _thin(x, A, ctx.parts)
        thin_g = _thin(g, V, ctx.parts)
        gx = None
        if wants_x:
            gx = _with_product(_first_factor(g) @ weight, thin_g, A).view(shape)
        return (
            gx,
            None,
            g.sum(0) if wants_bias else None,
            _sum_over_rows(thin_g, x, ctx.parts) if wants_A else None,
            _sum_over_rows(thin, g, ctx.parts) if wants_V else None,
        )


def _rows(x: Tensor) -> Tensor:
    return x if x.dim() == 2 else x.reshape(-1, x.shape[-1])


def _thin(wide: Tensor, factor: Tensor, parts: int) -> Tensor:
    """Return wide factorᵀ, [N, k], of wide [N, d] and factor [k, d]."""
    if parts == 1 or wide.shape[1] < _LONG_ROW:
        return wide @ factor.mT
    rows = wide.view(parts, -1, wide.shape[1])
    lying = torch.bmm(factor.expand(parts, -1, -1), rows.mT)
    return lying.mT.reshape(-1, factor.shape[0])


def _sum_over_rows(thin: Tensor, wide: Tensor, parts: int) -> Tensor:
    """Return thinᵀ wide, [k, d], of thin [N, k] and wide [N, d]."""
    if parts == 1:
        return thin.mT @ wide
    thin, wide = (rows.view(parts, -1, rows.shape[1]) for rows in (thin, wide))
    return torch.bmm(thin.mT, wide).sum(0)


def _parts(rows: Tensor) -> int:
    """Into how many equal parts rows are split, one for each CPU thread; 1 where that is no gain.

    A matrix library shares out the columns of a thin product, and so reads the wide factor in
    strips; a part of the rows is read in its own order. That takes a tenth to two fifths less
    time, measured in float32 (docs/notebook/performance.md).
    """
    if not rows.is_cpu or rows.dtype not in _SPLIT_DTYPES or torch.compiler.is_compiling():
        return 1
    threads = torch.get_num_threads()
    return threads if rows.shape[0] % threads == 0 else 1


def _with_product(wide: Tensor, thin: Tensor, factor: Tensor) -> Tensor:
    """Return wide + thin factor, [N, d], in place unless somebody else may keep wide."""
    thin = _first_factor(thin)
    return torch.addmm(wide, thin, factor) if is_dispatched() else wide.addmm_(thin, factor)


def _first_factor(rows: Tensor) -> Tensor:
    """Rows in the layout that suits a product with a second factor in rows.

    Where a CPU has no kernel of its own for a half-precision dtype, torch's general one takes ten
    to twenty times as long when both are stored in rows; with the first in columns it does not.
    """
    if rows.is_cpu and rows.dtype in SLOW_ON_CPU:
        return rows.mT.contiguous().mT
    return rows


def joint_product(x: Tensor, weight: Tensor, bias: Tensor | None, A: Tensor, V: Tensor) -> Tensor:
    """Return x Wᵀ + b + x Aᵀ 𝒱, [..., d_out]; the weight gets no gradient.

    x [..., d_in], weight [d_out, d_in], A [k, d_in] and V = 𝒱 = Bᵀ [k, d_out], all of one dtype.
    """
    y: Tensor = _JointProduct.apply(x, weight, bias, A, V)
    return y
