"""Starts of the five factors of one matrix.

At every start but `False` Δ is exactly 0. "gaussian" is the paper's: σ = 0.02 in all factors and
Λ = 0; "orthonormal" starts on the constraint instead. While Λ = 0 only the λ have a gradient, and
under Adam neither start learns as fast as LoRA; "lora" does (docs/notebook/learning.md): Λ = 1 and
𝒱 = 0, so that 𝒱 has LoRA's full gradient from the first step. "gradient" is the same, until
`lora2.tuners.lora2.gradient_start` turns v.
"""

from typing import Literal

import torch
from torch import Tensor

from lora2.tuners.lora2.config import Start

# Length of a raw column of v at the start, where the forward pass normalises it: under Adam a
# direction turns by about lr √d / length a step. 1/√3 is the length of a row of LoRA's A.
RAW_LENGTH = 3**-0.5


def initial_factors(
    start: Start | Literal[False], d_in: int, k: int, r: int, d_out: int, *, std: float
) -> dict[str, Tensor]:
    """Return the start of v, u, lam, U and V (see `lora2.mathematics`), float32 on the CPU.

    Drawn from torch's global CPU generator, so the start does not depend on the device.
    """
    if start == "gaussian":
        return {
            "v": std * torch.randn(d_in, k),
            "u": std * torch.randn(k, r),
            "lam": torch.zeros(r),
            "U": std * torch.randn(r, k),
            "V": std * torch.randn(k, d_out),
        }
    u = _orthonormal(k, r)
    if start in ("lora", "gradient"):
        # u Λ 𝒰 = u uᵀ is the identity for k ≤ r: the inner pair starts as if it were not there.
        return {
            "v": RAW_LENGTH * _orthonormal(d_in, k),
            "u": u,
            "lam": torch.ones(r),
            "U": u.mT.clone(memory_format=torch.contiguous_format),
            "V": torch.zeros(k, d_out),
        }
    return {
        "v": _orthonormal(d_in, k),
        "u": u,
        "lam": torch.zeros(r) if start == "orthonormal" else torch.randn(r),
        "U": _orthonormal(r, k),
        "V": _orthonormal(k, d_out),
    }


def _orthonormal(rows: int, columns: int) -> Tensor:
    """A random matrix with orthonormal rows or columns, whichever are the shorter list."""
    if 0 in (rows, columns):
        return torch.zeros(rows, columns)
    tall = torch.randn(max(rows, columns), min(rows, columns))
    q = torch.linalg.qr(tall).Q
    return (q if rows >= columns else q.mT).contiguous()
