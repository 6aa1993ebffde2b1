"""In what precision the small matrices are computed."""

import torch
from torch import Tensor


def in_full_precision(tensor: Tensor) -> Tensor:
    """A factor in float32 or wider: k × k algebra is too fine for less."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
