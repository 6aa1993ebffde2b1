"""In what precision the small matrices are computed."""

import torch
from torch import Tensor

HALF_PRECISION = (torch.float16, torch.bfloat16)

FLOATING = (torch.float64, torch.float32, *HALF_PRECISION)
"""The dtypes that factors and plain weights have; those of fewer bits are for quantized ones."""


def in_full_precision(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A factor in `dtype`, else in float32 or wider: k × k algebra is too fine for less."""
    return tensor.to(dtype or torch.promote_types(tensor.dtype, torch.float32))
