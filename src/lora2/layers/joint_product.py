"""y = W x + b + B (A x) as one step of the backward pass, with A = (v C)ᵀ and B = 𝒱ᵀ.

A thin product costs little arithmetic, so what it costs is passes over the activations and the
matrix kernel that its layout calls. Four things make it cheap:

* `addmm_` adds B (A x) into the base output, and Aᵀ Bᵀ g into the input's gradient, in place;
* only x and A x are kept for the backward pass; A is made again there, from k × k and k × d_in;
* A and Bᵀ stand with their long side contiguous, and the gradients are taken as (A x)ᵀ g and
  (Bᵀ g)ᵀ x, k rows of d. Autograd's own gᵀ (A x), d rows of k, is five to ten times slower;
* each CPU thread takes a part of the tokens, in place of whatever the matrix library would share.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from lora2.half_precision import SLOW_ON_CPU

# Numbers in a row from which on x Aᵀ gains by being split too.
_LONG_ROW = 640


class _JointProduct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, vt: Tensor, C: Tensor, V: Tensor
    ) -> Tensor:
        ctx.shape, rows = x.shape, x.reshape(-1, x.shape[-1])
        thin = _thin(rows, _product(C.mT, vt.to(C.dtype)).to(x.dtype))
        ctx.save_for_backward(rows, weight, vt, C, V, thin)
        return F.linear(rows, weight, bias).addmm_(_first_factor(thin), V.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, vt, C, V, thin = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        thin_g = _thin(g, V.to(g.dtype))
        gx, gvt, gC = None, None, None
        if wanted[0]:
            A = _product(C.mT, vt.to(C.dtype)).to(g.dtype)
            gx = (_first_factor(g) @ weight).addmm_(_first_factor(thin_g), A).view(ctx.shape)
        if wanted[3] or wanted[4]:
            gA = _sum_over_rows(thin_g, x).to(C.dtype)
            gvt, gC = _product(C, gA).to(vt.dtype), _product(vt.to(C.dtype), gA.mT)
        return (
            gx,
            None,
            g.sum(0) if wanted[2] else None,
            gvt,
            gC,
            _sum_over_rows(thin, g).to(V.dtype) if wanted[5] else None,
        )


def _product(first: Tensor, second: Tensor) -> Tensor:
    """Return the product in the factors' own dtype: autocast would round C, and C amplifies."""
    if not torch.is_autocast_enabled(first.device.type):
        return first @ second
    with torch.autocast(first.device.type, enabled=False):
        return first @ second


def _thin(wide: Tensor, factor: Tensor) -> Tensor:
    """Return wide factorᵀ, [N, k], of wide [N, d] and factor [k, d]."""
    parts = _parts(wide)
    if parts == 1 or wide.shape[-1] < _LONG_ROW:
        return wide @ factor.mT
    rows = wide.reshape(parts, -1, wide.shape[-1])
    lying = torch.bmm(factor.expand(parts, *factor.shape), rows.mT)
    return lying.mT.reshape(len(wide), len(factor))


def _sum_over_rows(thin: Tensor, wide: Tensor) -> Tensor:
    """Return thinᵀ wide, [k, d], of thin [N, k] and wide [N, d]."""
    parts = _parts(wide)
    if parts == 1:
        return thin.mT @ wide
    thin, wide = (rows.reshape(parts, -1, rows.shape[-1]) for rows in (thin, wide))
    return torch.bmm(thin.mT, wide).sum(0)


def _parts(rows: Tensor) -> int:
    """Into how many equal parts rows are split, one for each CPU thread; 1 where that is no gain.

    A matrix library shares out the columns of a thin product, and so reads the wide factor in
    strips; a part of the rows is read as it lies. That takes a tenth to two fifths less
    time, measured in float32 (docs/performance.md).
    """
    if torch.compiler.is_compiling():
        return 1
    threads = torch.get_num_threads()
    splits = rows.device.type == "cpu" and rows.dtype in (torch.float32, torch.float64)
    return threads if splits and len(rows) % threads == 0 else 1


def _first_factor(rows: Tensor) -> Tensor:
    """Rows in the layout that suits a product with a second factor in rows.

    Where a CPU has no kernel of its own for a half-precision dtype, torch's general one takes ten
    to twenty times as long when both stand in rows; with the first in columns it does not.
    """
    if rows.device.type == "cpu" and rows.dtype in SLOW_ON_CPU:
        return rows.mT.contiguous().mT
    return rows


def joint_product(
    x: Tensor, weight: Tensor, bias: Tensor | None, vt: Tensor, C: Tensor, V: Tensor
) -> Tensor:
    """Return x Wᵀ + b + x v C 𝒱, [..., d_out], in the dtype of x; the weight gets no gradient.

    x [..., d_in] and weight [d_out, d_in] of one dtype; vt = vᵀ [k, d_in], V = 𝒱 [k, d_out];
    C [k, k], in whose dtype A is made.
    """
    y: Tensor = _JointProduct.apply(x, weight, bias, vt, C, V)
    # Outside, since a view made inside could not be written to in place.
    return y.view(*x.shape[:-1], y.shape[-1])


def thin_product(x: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """Return (x Aᵀ) Bᵀ alone, [..., d_out]: for an x that is not the base layer's, as with dropout.

    Plain matrix products, whose gradients autograd takes in the layout of their second factor.
    """
    rows = x.reshape(-1, x.shape[-1])
    y = (rows @ A.mT) @ B.mT
    return y.view(*x.shape[:-1], y.shape[-1])
