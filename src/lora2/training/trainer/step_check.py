"""Stops a run of any method at the step whose loss or gradients are NaN or infinite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import torch
from torch import Tensor, nn

from lora2.errors import NumericalError
from lora2.trainers.divergence import ADVICE
from lora2.tuners.base.distributed.ranks import are_several, first_of_all
from lora2.tuners.base.finite_checks import first_bad_module
from lora2.tuners.base.finite_tensors import first_bad_local_tensor, first_bad_of_all


def check_step(
    model: nn.Module,
    losses: Sequence[Tensor],
    step: int,
    compute: Callable[[int], object] | None = None,
) -> None:
    """Check the losses of a step and the gradients of all that is trained.

    It is called before gradients are clipped, which spreads a NaN to all of them, and before the
    optimizer takes it into the weights. It waits for the device, and for the other processes: all
    of them stop, since each waits for the others in the next step.

    Args:
        model: the model.
        losses: of the micro-batches of the step, scalars.
        step: the optimizer step, from 1.
        compute: computes the loss of a micro-batch again, to find the module; None where that
            cannot be done.

    Raises:
        NumericalError: naming the weight, the gradient, or the module whose output is the first to
            hold NaN or infinity.
    """
    trained = _trained(model)
    # A backward pass runs from the last layer to the first, and most models have them in order.
    names = [*reversed(trained)]
    gradients = {name: gradient for name in names if (gradient := trained[name].grad) is not None}
    found = first_bad_local_tensor([*(loss.detach() for loss in losses), *gradients.values()])
    if found is not None and found >= len(losses):
        # Other processes may have other gradients.
        found = len(losses) + names.index([*gradients][found - len(losses)])
    first = first_of_all(found)
    if first is None:
        return
    check_trained_weights(model, step)
    if first >= len(losses):
        named = names[first - len(losses)]
        raise NumericalError(f"NaN or infinity in the gradient of {named} at step {step}: {ADVICE}")
    if first != found:
        raise NumericalError(
            f"The training loss of another process is NaN or infinite at step {step}: {ADVICE}"
        )
    # The search computes the batch again, which no process can do without the others.
    module = None if compute is None or are_several() else _first_module(model, compute, first)
    where = "" if module is None else f", from NaN or infinity in the output of {module}"
    raise NumericalError(
        f"The training loss is {float(losses[first])} at step {step}{where}: {ADVICE}"
    )


def check_trained_weights(model: nn.Module, step: int) -> None:
    """Check all weights that are trained; of a sharded model, all processes must take part.

    Raises:
        NumericalError: naming the first that holds NaN or infinity.
    """
    trained = _trained(model)
    first = first_bad_of_all([each.detach() for each in trained.values()])
    if first is not None:
        named = [*trained][first]
        raise NumericalError(f"NaN or infinity in {named} of the model at step {step}: {ADVICE}")


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: each for name, each in model.named_parameters() if each.requires_grad}


def _first_module(
    model: nn.Module, compute: Callable[[int], object], micro_batch: int
) -> str | None:
    # An error of the search must not hide the error that it is to explain.
    with suppress(Exception), torch.no_grad():
        return first_bad_module(model, lambda: compute(micro_batch))
    return None
