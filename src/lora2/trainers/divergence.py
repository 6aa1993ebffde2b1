"""Stops a training whose loss, gradient or factors become NaN or infinite, and names the layer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from lora2.errors import NumericalError
from lora2.tuners.base.distributed.gathering import is_plain, is_sharded, local_part
from lora2.tuners.base.distributed.ranks import first_of_all
from lora2.tuners.base.distributed.zero import is_any_trained_by_zero
from lora2.tuners.base.finite_checks import first_not_finite
from lora2.tuners.lora2.factor_table import FACTORS
from lora2.tuners.lora2.layer import lora2_layers

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
    """Looks for NaN and infinity in an adapter's gradients and factors, before each optimizer step.

    It sees each layer's gradient as it arises, before clipping spreads a NaN to all of them. A
    backward pass runs from the last layer to the first, and the first NaN it meets is the cause of
    all later ones. Costs one sum of k × d_out numbers a layer; a check waits for the device.
    """

    def __init__(self, model: nn.Module, adapter_name: str) -> None:
        self._adapter_name = adapter_name
        self._layers = lora2_layers(model, adapter_name)
        factors = [
            factor
            for layer in self._layers.values()
            for factor in layer.parameters_of(adapter_name).values()
        ]
        # DistributedDataParallel brings a NaN of one process to all of them, these do not.
        self._must_agree = any(map(is_sharded, factors)) or is_any_trained_by_zero(factors)
        # The order is that of the backward pass. A layer has one sum, so that nothing grows where
        # nobody checks any longer, as after a training that was interrupted.
        self._sums: dict[str, Tensor] = {}
        for name, layer in self._layers.items():
            layer.lora2_states[adapter_name].watch = partial(self._record, name)

    def check(self) -> None:
        """Check all gradients seen since the last call.

        Raises:
            NumericalError: naming the layer that was the first to get a NaN or infinite gradient.
        """
        sums, self._sums = self._sums, {}
        first = first_not_finite(list(sums.values()))
        if self._must_agree:
            # All processes must stop here, since the next check waits for each of them.
            first = first_of_all(first)
        if first is not None:
            name = [*sums][first] if first < len(sums) else "a layer in another process"
            raise NumericalError(f"NaN or infinity in the gradient of {name}: {ADVICE}")

    @torch.no_grad()
    def check_factors_and_gradients(self) -> None:
        """Check all factors, and their gradients as the optimizer gets them.

        Raises:
            NumericalError: naming the first module and tensor that hold NaN or infinity.
        """
        values = list(self._factors_and_gradients())
        first = first_not_finite_of_all(values)
        if first is not None:
            raise NumericalError(f"NaN or infinity in {self._name_of(values[first])}: {ADVICE}")

    def remove(self) -> None:
        """Stop watching."""
        for layer in self._layers.values():
            if layer.has_adapter(self._adapter_name):
                layer.lora2_states[self._adapter_name].watch = None

    def _factors_and_gradients(self) -> Iterator[Tensor]:
        for layer in self._layers.values():
            for parameter in layer.parameters_of(self._adapter_name).values():
                yield parameter
                if parameter.grad is not None:
                    yield parameter.grad

    def _name_of(self, found: Tensor) -> str:
        for name, layer in self._layers.items():
            for symbol, parameter in layer.parameters_of(self._adapter_name).items():
                factor = f"{name}.{FACTORS[symbol].attribute}"
                if found is parameter:
                    return factor
                if found is parameter.grad:
                    return f"the gradient of {factor}"
        raise AssertionError("a tensor of another adapter")

    def _record(self, name: str, gradient: Tensor) -> None:
        total, before = gradient.sum(dtype=torch.float32), self._sums.get(name)
        self._sums[name] = total if before is None else before + total


def first_not_finite_of_all(tensors: Sequence[Tensor]) -> int | None:
    """Return the position of the first tensor that holds NaN or infinity, None if none does.

    Of tensors that are sharded, all processes learn the lowest that one of them has found.
    """
    first = first_not_finite_here(tensors)
    return first if is_plain(tensors) else first_of_all(first)


def first_not_finite_here(tensors: Sequence[Tensor]) -> int | None:
    """Return the position of the first tensor whose part in this process is not finite."""
    return _first_not_finite(
        tensors if is_plain(tensors) else [local_part(tensor) for tensor in tensors]
    )


def _first_not_finite(tensors: Sequence[Tensor]) -> int | None:
    positions = [position for position, tensor in enumerate(tensors) if tensor.numel()]
    if not positions:
        return None
    filled = [tensors[position] for position in positions]
    # A sum of squares takes a CPU a quarter of the time of the largest absolute value, but it may
    # overflow. Then the largest absolute value decides: it cannot overflow.
    if first_not_finite(torch._foreach_norm(filled)) is None:
        return None
    first = first_not_finite(torch._foreach_norm(filled, float("inf")))
    return None if first is None else positions[first]
