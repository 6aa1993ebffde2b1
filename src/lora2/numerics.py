"""Stops training at the first number that is not one, and says where it stands."""

from functools import partial

import torch
from torch import Tensor, nn

from lora2.layers.base import FACTOR_ATTRIBUTES
from lora2.penalty import adapted_layers

_ADVICE = "lower the learning rate, or train in bfloat16 or float32 instead of float16."


class NumericalError(ArithmeticError):
    """A factor or gradient became NaN or infinite."""


class GradientWatch:
    """Sees each layer's gradient as it arises, before clipping spreads a NaN to all of them.

    A backward pass runs from the last layer to the first, and the first NaN it meets is the cause
    of all later ones. Costs one sum of r numbers a layer; `check` synchronises with the device.
    """

    def __init__(self, model: nn.Module, adapter_name: str) -> None:
        self._sums: dict[str, Tensor] = {}
        self._handles = [
            layer.parameters_of(adapter_name)["lam"].register_post_accumulate_grad_hook(
                partial(self._record, name)
            )
            for name, layer in adapted_layers(model, adapter_name).items()
        ]

    def check(self) -> None:
        """Check all gradients seen since the last call.

        Raises:
            NumericalError: naming the layer that was the first to get a NaN or infinite gradient.
        """
        sums, self._sums = self._sums, {}
        if not sums:
            return
        finite = torch.isfinite(torch.stack([total.cpu() for total in sums.values()]))
        if not finite.all():
            first = list(sums)[int((~finite).nonzero()[0])]
            raise NumericalError(f"NaN or infinity in the gradient of {first}: {_ADVICE}")

    def remove(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()

    def _record(self, name: str, parameter: Tensor) -> None:
        assert parameter.grad is not None
        self._sums[name] = parameter.grad.sum(dtype=torch.float32)


def check_finite(model: nn.Module, adapter_name: str) -> None:
    """Check all factors and gradients of an adapter; one synchronisation with the device.

    Raises:
        NumericalError: naming the first module and tensor that hold NaN or infinity.
    """
    tensors: dict[str, Tensor] = {}
    for name, layer in adapted_layers(model, adapter_name).items():
        for symbol, parameter in layer.parameters_of(adapter_name).items():
            tensors[f"{name}.{FACTOR_ATTRIBUTES[symbol]}"] = parameter.data
            if parameter.grad is not None:
                tensors[f"the gradient of {name}.{FACTOR_ATTRIBUTES[symbol]}"] = parameter.grad
    # A sum is finite only if all its terms are; overflow of a finite sum would be an error too.
    sums = torch.stack([tensor.sum(dtype=torch.float32).cpu() for tensor in tensors.values()])
    finite = torch.isfinite(sums)
    if not finite.all():
        first = list(tensors)[int((~finite).nonzero()[0])]
        raise NumericalError(f"NaN or infinity in {first}: {_ADVICE}")
