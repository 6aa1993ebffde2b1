"""u, Λ and 𝒰 stay in float32 at least, whatever the model is cast to.

λ starts at 1 and must move by steps of an optimizer, which in half precision are less than half of
the distance to the next number, so that it would always stay at 1. The three are small.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lora2.errors import UserError
from lora2.mathematics.precision import HALF_PRECISION
from lora2.tuners.base.distributed.dtensors import is_dtensor
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


def check_is_precise(parameters: Mapping[str, Tensor], adapter_name: str) -> None:
    """Check that the inner factors, if FSDP2 has sharded them, are not in half precision.

    Raises:
        UserError: they are, and FSDP2 would keep their values where nothing can make them wider.
    """
    # What FSDP2 has gathered may have been cast, by its mixed precision, from wider ones.
    if is_dtensor(parameters["lam"]) and are_rounded(parameters):
        dtype = str(parameters["lam"].dtype).removeprefix("torch.")
        raise UserError(
            f"autocast_adapter_dtype: λ of adapter {adapter_name!r} is in {dtype}, too coarse for "
            "it to be trained, and fully_shard has been called: leave autocast_adapter_dtype=False "
            "out, and cast no adapter before fully_shard."
        )


@torch.no_grad()
def make_precise(parameters: Mapping[str, Tensor]) -> None:
    """Make the inner factors float32, in place, so that an optimizer still knows them."""
    for symbol in INNER:
        if parameters[symbol].dtype in HALF_PRECISION:
            parameters[symbol].data = parameters[symbol].data.float()
