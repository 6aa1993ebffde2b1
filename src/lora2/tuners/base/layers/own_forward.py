"""Whether a linear layer computes W x + b, which a merge takes for granted."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from lora2.tuners.base.layers.linear import LinearLayer
from lora2.tuners.base.layers.quantized import is_quantized

_LINEAR_FORWARDS = (nn.Linear.forward, Conv1D.forward)
# A float16 sum over a wide layer has such an error.
_TOLERANCE = 1e-2


def warn_of_own_forwards(model: nn.Module, adapter_names: Sequence[str]) -> None:
    """Warn once of linear layers that compute more than W x + b of the merged weight.

    The adapter adds B A x to what such a layer computes; merged, B A goes through its forward.
    """
    others = {
        name: type(layer.get_base_layer()).__name__
        for name, layer in model.named_modules()
        if isinstance(layer, LinearLayer)
        and any(map(layer.has_effect, adapter_names))
        and not _is_linear(layer.get_base_layer())
    }
    if others:
        name, kind = next(iter(others.items()))
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        warnings.warn(
            f"{name}{more} is a {kind}, whose forward computes something else than W x + b: the "
            "merged model may compute something else than the one with the adapter; compare "
            "them, or leave such layers out of target_modules.",
            stacklevel=4,
        )


@torch.no_grad()
def _is_linear(base: Any) -> bool:
    """Whether a layer computes W x + b, by its class or on two inputs."""
    if type(base).forward in _LINEAR_FORWARDS or is_quantized(base):
        return True
    try:
        return _difference(base) <= _TOLERANCE
    except (AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError):
        # It takes or gives something else than a linear layer, or its weight is not in memory.
        return False


def _difference(base: Any) -> float:
    """Return the largest difference from W x + b, as a share of its largest value."""
    weight = base.weight.mT if isinstance(base, Conv1D) else base.weight
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, weight.shape[1], generator=generator).to(weight)
    expected = nn.functional.linear(x, weight, base.bias)
    return float((base(x) - expected).abs().max() / expected.abs().max().clamp_min(1e-6))
