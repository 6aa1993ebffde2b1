"""Stops training at the first number that is not one, and says where it stands."""

import torch
from torch import Tensor, nn

from lora2.layers.base import FACTOR_ATTRIBUTES
from lora2.penalty import adapted_layers


class NumericalError(ArithmeticError):
    """A factor or gradient became NaN or infinite."""


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
        raise NumericalError(
            f"NaN or infinity in {first}: lower the learning rate, or train in bfloat16 or "
            "float32 instead of float16."
        )
