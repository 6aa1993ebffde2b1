"""The factors of a layer's change with no more columns and rows than the change has rank."""

from __future__ import annotations

import torch
from torch import Tensor

from lora2.mathematics.low_rank import of_rank, rank, singular_value_form
from lora2.tuners.base.layers.adapted_layer import AdaptedLayer


def own_factors(layer: AdaptedLayer, adapter_name: str) -> tuple[Tensor, Tensor]:
    """Return (B [d_out, rank], A [rank, d_in]); the rank is 0 where nothing changes.

    They are the forward pass's own factors, rounding and all, because the change is what was
    trained with. Pruned values are left out, because rounding would leave traces of them.
    """
    B, A = layer.factors(adapter_name)
    # In float64, which separates what was pruned from what is small.
    sigma = singular_value_form(*layer.factors(adapter_name, torch.float64))[1]
    own = rank(sigma)
    return (B, A) if own == len(A) else of_rank(B.double(), A.double(), own)
