"""Stops a run of any method at the step whose loss or gradients are NaN or infinite."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor, nn

from lora2.errors import NumericalError
from lora2.trainers.divergence import ADVICE, first_not_finite_of_all
from lora2.tuners.base.finite_checks import check_weights, first_not_finite_module


def check_step(
    model: nn.Module, loss: Tensor, step: int, compute: Callable[[], object] | None
) -> None:
    """Check the loss of a step and the gradients of all that is trained.

    It is called before gradients are clipped, which spreads a NaN to all of them, and before the
    optimizer takes it into the weights. Waits for the device once.

    step: the optimizer step, from 1.
    compute: computes the loss again, to find the module; None where that cannot be done.

    Raises:
        NumericalError: naming the weight, the gradient, or the module whose output is the first to
            hold NaN or infinity.
    """
    trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
    # A backward pass runs from the last layer to the first.
    gradients = {
        name: each.grad for name, each in reversed(trained.items()) if each.grad is not None
    }
    first = first_not_finite_of_all([loss.detach(), *gradients.values()])
    if first is None:
        return
    check_weights(trained, f"the model at step {step}", ADVICE)
    if first > 0:
        named = [*gradients][first - 1]
        raise NumericalError(f"NaN or infinity in the gradient of {named} at step {step}: {ADVICE}")
    module = None if compute is None else _first_module(model, compute)
    where = "" if module is None else f", from NaN or infinity in the output of {module}"
    raise NumericalError(f"The training loss is {float(loss)} at step {step}{where}: {ADVICE}")


def _first_module(model: nn.Module, compute: Callable[[], object]) -> str | None:
    # What goes wrong here must not hide the error.
    with suppress(Exception), torch.no_grad():
        return first_not_finite_module(model, compute)
    return None
