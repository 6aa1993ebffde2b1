"""PEFT's `convert_to_lora` and `save_as_lora`, exact for the layers of this package.

PEFT takes the singular value decomposition of the whole d × d change. Here the change is a product
of two thin factors, from which the LoRA follows at once. PEFT has no hook for that, so its function
for one module is wrapped, in memory, once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from peft.tuners.lora import conversion
from torch import Tensor

from lora2.exchange.own_factors import own_factors
from lora2.mathematics.low_rank import of_rank, singular_value_form
from lora2.tuners.base.layers.adapted_layer import AdaptedLayer
from lora2.tuners.base.registration import wrap_once


def make_conversion_exact() -> None:
    """Have PEFT's conversion ask our layers for their factors."""
    wrap_once(conversion, "_convert_module_to_lora", _asking_our_layers)


def _asking_our_layers(original: Callable[..., Any]) -> Callable[..., Any]:
    def convert(module: Any, rank: float, adapter_name: str = "default") -> Any:
        if isinstance(module, AdaptedLayer):
            return as_lora_of_rank(module, rank, adapter_name)
        return original(module, rank, adapter_name)

    return convert


@torch.no_grad()
def as_lora_of_rank(
    layer: AdaptedLayer, rank: float, adapter_name: str
) -> tuple[Tensor, Tensor, int]:
    """Return (A, B, rank) of a layer as PEFT wants them: scaling included, in float32.

    rank: a whole number; or, if a float, the share of the squared singular values to keep.

    Raises:
        ValueError: a rank above the smaller side of the weight, or that its groups do not divide.
    """
    B, A = (factor.double() for factor in own_factors(layer, adapter_name))
    groups = layer.lora_groups()
    if isinstance(rank, int):
        size = rank
    else:
        size = groups * _rank_of_share(singular_value_form(B, A)[1], rank)
    if size % groups:
        raise ValueError(f"rank={size} must be a multiple of the convolution's groups={groups}.")
    if size // groups > min(layer.matrix_shape()):
        raise ValueError(
            f"rank={size} is above the smaller side of the weight, {min(layer.matrix_shape())}: "
            "choose a lower rank."
        )
    tensors = layer.as_lora(*of_rank(B, A, size // groups))
    first, second = (tensor.float().contiguous() for tensor in tensors.values())
    return first, second, size


def _rank_of_share(sigma: Tensor, share: float) -> int:
    energy = sigma.square().cumsum(0)
    # A change that is zero, or of which nothing is left, gets one: PEFT's LoRA has no rank 0.
    return max(1, min(int((energy < share * energy[-1:]).sum()) + 1, len(sigma)))
