"""In what precision the small matrices are computed."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

HALF_PRECISION = (torch.float16, torch.bfloat16)

FLOATING = (torch.float64, torch.float32, *HALF_PRECISION)
"""The dtypes that factors and plain weights have; those of fewer bits are for quantized ones."""


def in_full_precision(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A factor in `dtype`, else in float32 or wider: k × k algebra is too fine for less."""
    return tensor.to(dtype or torch.promote_types(tensor.dtype, torch.float32))


def without_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """Within, operations on the device of a tensor have the dtypes of their arguments."""
    device = tensor.device.type
    # torch has no autocast for some devices, such as meta.
    if not torch.amp.is_autocast_available(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)


def has_autocast(tensor: Tensor) -> bool:
    """Whether autocast is on for operations on the device of a tensor."""
    device = tensor.device.type
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
