"""u, Λ and 𝒰 stay in float32 at least, whatever the model is cast to.

λ starts at 1 and must move by steps of an optimizer, which in half precision are less than half of
the distance to the next number, so that it would always stay at 1. The three are small.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lora2.mathematics.precision import HALF_PRECISION
from lora2.tuners.lora2.factor_table import INNER


class PreciseParameters(nn.ParameterDict):
    """Parameters by adapter name, which `to`, `half` and `bfloat16` move but do not round."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        def precisely(tensor: Tensor) -> Tensor:
            applied = fn(tensor)
            is_rounded = applied.dtype in HALF_PRECISION and tensor.dtype not in HALF_PRECISION
            return tensor.to(applied.device) if is_rounded else applied

        return super()._apply(precisely, recurse)


def are_rounded(parameters: Mapping[str, Tensor]) -> bool:
    """Whether an inner factor, by symbol, is in half precision."""
    return parameters["lam"].dtype in HALF_PRECISION


@torch.no_grad()
def make_precise(parameters: Mapping[str, Tensor]) -> None:
    """Make the inner factors float32, in place, so that an optimizer still knows them."""
    for symbol in INNER:
        if parameters[symbol].dtype in HALF_PRECISION:
            parameters[symbol].data = parameters[symbol].data.float()
