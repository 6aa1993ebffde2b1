"""y = W x + b + B (A x) as one step of the backward pass.

A thin product costs little arithmetic, so what it costs is passes over the activations and the
matrix kernel that its layout calls. Three things make it cheap:

* `addmm_` adds B (A x) into the base output, and Aᵀ Bᵀ g into the input's gradient, in place;
* only x and A x are kept for the backward pass;
* A and Bᵀ stand with their long side contiguous, and the gradients are taken as (A x)ᵀ g and
  (Bᵀ g)ᵀ x, k rows of d. Autograd's own gᵀ (A x), d rows of k, is five to ten times slower.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


class _JointProduct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, A: Tensor, Bt: Tensor
    ) -> Tensor:
        thin = x @ A.mT
        ctx.save_for_backward(x, weight, A, Bt, thin)
        return F.linear(x, weight, bias).addmm_(_first_factor(thin), Bt)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, A, Bt, thin = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        thin_g = g @ Bt.mT
        return (
            (_first_factor(g) @ weight).addmm_(_first_factor(thin_g), A) if wanted[0] else None,
            None,
            g.sum(0) if wanted[2] else None,
            thin_g.mT @ x if wanted[3] else None,
            thin.mT @ g if wanted[4] else None,
        )


def _first_factor(rows: Tensor) -> Tensor:
    """Rows in the layout that suits a product with a second factor in rows.

    Without units for half precision, torch's CPU kernel takes ten to twenty times as long when
    both stand in rows; with the first in columns it does not.
    """
    if rows.device.type == "cpu" and rows.dtype in (torch.bfloat16, torch.float16):
        return rows.mT.contiguous().mT
    return rows


def joint_product(x: Tensor, weight: Tensor, bias: Tensor | None, A: Tensor, Bt: Tensor) -> Tensor:
    """Return x Wᵀ + b + (x Aᵀ) Bᵀ, [..., d_out]; the weight gets no gradient.

    x [..., d_in]; weight [d_out, d_in]; A [k, d_in]; Bt = Bᵀ [k, d_out]; all of one dtype.
    """
    rows = x.reshape(-1, x.shape[-1])
    y: Tensor = _JointProduct.apply(rows, weight, bias, A.contiguous(), Bt.contiguous())
    return y.view(*x.shape[:-1], y.shape[-1])


def thin_product(x: Tensor, A: Tensor, Bt: Tensor) -> Tensor:
    """Return (x Aᵀ) Bᵀ alone, [..., d_out]: for an x that is not the base layer's, as with dropout.

    Plain matrix products, whose gradients autograd takes in the layout of their second factor.
    """
    rows = x.reshape(-1, x.shape[-1])
    y = (rows @ A.contiguous().mT) @ Bt.contiguous()
    return y.view(*x.shape[:-1], y.shape[-1])
