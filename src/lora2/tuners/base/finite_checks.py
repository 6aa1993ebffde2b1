"""Stops at weights, factors, merged weights or outputs that are NaN or infinite, and names them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from lora2.errors import MergedWeightError, NumericalError, UserError
from lora2.mathematics.precision import FLOATING
from lora2.tuners.base.finite_tensors import first_bad_number
from lora2.tuners.base.layers.finding import adapted_layers


def check_weights(tensors: Mapping[str, Tensor], where: str, advice: str) -> None:
    """Check weights that were loaded, by name; one synchronisation with the device, no copies.

    where: what holds them; advice: what to do about it.

    Raises:
        NumericalError: naming the first tensor that holds NaN or infinity.
    """
    plain = {
        name: tensor.detach()
        for name, tensor in tensors.items()
        if type(tensor) in (Tensor, nn.Parameter)
        and tensor.dtype in FLOATING
        and tensor.numel()
        and not tensor.is_meta
    }
    # torch has no norms of an empty list.
    norms = torch._foreach_norm(list(plain.values()), float("inf")) if plain else []
    first = first_bad_number(norms)
    if first is not None:
        raise NumericalError(f"NaN or infinity in {list(plain)[first]} of {where}: {advice}")


@torch.no_grad()
def check_factors(model: nn.Module, adapter_name: str, where: str) -> None:
    """Check the two factors of each layer's change, scaling included, of LoRA² and SoRA.

    where: what holds the adapter.

    Raises:
        NumericalError: naming the first layer whose change holds NaN or infinity.
    """
    layers = adapted_layers(model, adapter_name).items()
    check_finite_factors(((name, layer.factors(adapter_name)) for name, layer in layers), where)


def check_finite_factors(factors: Iterable[tuple[str, tuple[Tensor, Tensor]]], where: str) -> None:
    """Check pairs of factors, each with the name of its layer.

    where: what holds the adapter.

    Raises:
        NumericalError: naming the first layer of which a factor holds NaN or infinity.
    """
    for name, pair in factors:
        if not all(factor.isfinite().all() for factor in pair):
            raise NumericalError(
                f"NaN or infinity in the change of {name} by {where}: its factors or its "
                "lora_alpha are too large or damaged; copy it again, or train it again."
            )


@contextmanager
def naming_merged_layer(model: nn.Module) -> Iterator[None]:
    """Name the layer at which PEFT's merge with `safe_merge` stops; those before it are merged.

    Raises:
        MergedWeightError: a merged weight would hold NaN or infinity.
    """
    try:
        yield
    except (UserError, MergedWeightError):
        # Our own methods have named it.
        raise
    except ValueError as error:
        layers = ((n, m) for n, m in model.named_modules() if isinstance(m, BaseTunerLayer))
        name = next((name for name, layer in layers if not layer.merged), None)
        if name is None:
            raise
        raise MergedWeightError(
            f"NaN or infinity in the merged weight of {name}: load the model in float32 to merge, "
            "or train the adapter again."
        ) from error


def check_finite_output(output: Tensor, model: nn.Module, compute: Callable[[], object]) -> None:
    """Check what a model has computed.

    compute: computes the same again, to find the layer.

    Raises:
        NumericalError: naming the first module whose output holds NaN or infinity.
    """
    if torch.isfinite(output).all():
        return
    raise NumericalError(
        "NaN or infinity in the output of "
        f"{first_bad_module(model, compute) or f'the {type(model).__name__}'}: a weight, an "
        "adapter's factor or its lora_alpha is too large or damaged; train it again, or load the "
        "model in float32."
    )


def first_bad_module(model: nn.Module, compute: Callable[[], object]) -> str | None:
    """Return the first module, inner ones before outer ones, whose output is not finite.

    compute: calls the model.
    """
    found: list[str] = []

    def look(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        tensors = [output] if isinstance(output, Tensor) else output
        if isinstance(tensors, tuple | list) and not found:
            floating = [t for t in tensors if isinstance(t, Tensor) and t.is_floating_point()]
            if not all(tensor.isfinite().all() for tensor in floating):
                found.append(name)

    handles = [
        module.register_forward_hook(partial(look, name))
        for name, module in model.named_modules()
        if name
    ]
    try:
        compute()
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None
