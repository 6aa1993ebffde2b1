"""Stops a training whose loss, gradient or factors become NaN or infinite, and names the layer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from lora2.errors import NumericalError
from lora2.tuners.base.distributed.gathering import is_sharded
from lora2.tuners.base.distributed.ranks import first_of_all
from lora2.tuners.base.distributed.zero import is_any_trained_by_zero
from lora2.tuners.base.finite_tensors import first_bad_local_tensor
from lora2.tuners.base.model.placement import PlacedAdapter
from lora2.tuners.lora2.config import Lora2Config
from lora2.tuners.lora2.factor_table import FACTORS
from lora2.tuners.lora2.layer import Lora2Layer, lora2_layers

ADVICE = "lower the learning rate, or train in bfloat16 or float32 instead of float16."
"""What to do about a training that diverges."""


def check_loss(loss: float, step: int, kind: str = "training") -> None:
    """Check the loss at an optimizer step, of training or of validation.

    Raises:
        NumericalError: the loss is NaN or infinite.
    """
    if not math.isfinite(loss):
        raise NumericalError(f"The {kind} loss is {loss} at step {step}: {ADVICE}")


class GradientWatch:
    """Looks for NaN and infinity in gradients and factors of adapters, before an optimizer step.

    It sees each layer's gradient as it arises, before clipping spreads a NaN to all of them. A
    backward pass runs from the last layer to the first, and the first NaN it meets is the cause of
    all later ones. Costs one sum of k × d_out numbers a layer; a check waits for the device once.
    """

    def __init__(self, adapters: Iterable[PlacedAdapter[Lora2Config]]) -> None:
        self._watched = [
            _Watched(name, layer, adapter.name)
            for adapter in adapters
            for name, layer in lora2_layers(adapter.module, adapter.name).items()
        ]
        factors = [factor for each in self._watched for factor in each.factors().values()]
        # DistributedDataParallel brings a NaN of one process to all of them, these do not.
        self._must_agree = any(map(is_sharded, factors)) or is_any_trained_by_zero(factors)
        # The order is that of the backward pass. A layer has one sum, so that nothing grows where
        # nobody checks any longer, as after a training that was interrupted.
        self._sums: dict[_Watched, Tensor] = {}
        for each in self._watched:
            each.layer.lora2_states[each.adapter_name].watch = partial(self._record, each)

    @torch.no_grad()
    def check(self) -> None:
        """Check all gradients seen since the last call, and all that the optimizer gets.

        Raises:
            NumericalError: naming the layer that was the first to get a NaN or infinite gradient,
                else the first factor that holds NaN or infinity, or whose gradient does.
        """
        sums, self._sums = self._sums, {}
        values = list(self._factors_and_gradients())
        # The sums name the cause, so they come first.
        first = first_bad_local_tensor([*sums.values(), *values])
        if first is not None and first >= len(sums):
            # Other processes may have seen other layers.
            first += len(self._watched) - len(sums)
        if self._must_agree:
            # All processes must stop here, since the next check waits for each of them.
            first = first_of_all(first)
        if first is None:
            return
        if first >= len(self._watched):
            named = self._name_of(values[first - len(self._watched)])
        else:
            seen = [each.name for each in sums]
            layer = seen[first] if first < len(seen) else "a layer in another process"
            named = f"the gradient of {layer}"
        raise NumericalError(f"NaN or infinity in {named}: {ADVICE}")

    def remove(self) -> None:
        """Stop watching."""
        for each in self._watched:
            if each.layer.has_adapter(each.adapter_name):
                each.layer.lora2_states[each.adapter_name].watch = None

    def _factors_and_gradients(self) -> Iterator[Tensor]:
        for each in self._watched:
            for parameter in each.factors().values():
                yield parameter
                if parameter.grad is not None:
                    yield parameter.grad

    def _name_of(self, found: Tensor) -> str:
        for each in self._watched:
            for symbol, parameter in each.factors().items():
                factor = f"{each.name}.{FACTORS[symbol].attribute}"
                if found is parameter:
                    return factor
                if found is parameter.grad:
                    return f"the gradient of {factor}"
        raise AssertionError("a tensor of another adapter")

    def _record(self, watched: _Watched, gradient: Tensor) -> None:
        total, before = gradient.sum(dtype=torch.float32), self._sums.get(watched)
        self._sums[watched] = total if before is None else before + total


class _Watched(NamedTuple):
    """One adapter in the layer of a name."""

    name: str
    layer: Lora2Layer
    adapter_name: str

    def factors(self) -> Mapping[str, Tensor]:
        return self.layer.parameters_of(self.adapter_name)
