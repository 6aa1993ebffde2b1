"""LoRA+ (arXiv 2402.12354) for LoRA²: a higher learning rate for the factor that starts at zero."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

from peft import optimizers
from peft.optimizers import loraplus
from torch import nn
from torch.optim import Optimizer

from lora2.errors import UserError
from lora2.support.field_types import is_finite_number
from lora2.tuners.base.checked_model import check_is_module
from lora2.tuners.base.layers.finding import modules_of_type
from lora2.tuners.base.registration import wrap_once
from lora2.tuners.lora2.layer import Lora2Layer


def loraplus_groups(
    model: nn.Module, lr: float, ratio: float, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """Return parameter groups for an optimizer: 𝒱 at lr · ratio, all other trained ones at lr.

    𝒱 starts at zero and is LoRA's B, whose rate LoRA+ raises.

    Args:
        model: a model with LoRA² adapters.
        lr: learning rate of all but 𝒱.
        ratio: of the two rates, at least 1.
        weight_decay: of both groups.

    Raises:
        UserError: no LoRA² adapter is trained, or a number out of its range.
    """
    if not (is_finite_number(ratio) and is_finite_number(lr) and ratio >= 1 and lr >= 0):
        raise UserError(
            f"ratio={ratio!r} and lr={lr!r}: write a ratio of at least 1, and a rate of 0 or more."
        )
    if not (is_finite_number(weight_decay) and weight_decay >= 0):
        raise UserError(
            f"weight_decay={weight_decay!r}: write a number of 0 or more, such as 0.01."
        )
    check_is_module(model)
    factors = _trained(model)
    if not factors["V"]:
        raise UserError(
            "model: no LoRA² adapter in it is trained; wrap it with get_peft_model first."
        )
    fast = {id(parameter) for parameter in factors["V"]}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    high = [parameter for parameter in trained if id(parameter) in fast]
    others = [parameter for parameter in trained if id(parameter) not in fast]
    return [
        {"params": others, "lr": lr, "weight_decay": weight_decay},
        {"params": high, "lr": lr * ratio, "weight_decay": weight_decay},
    ]


def make_loraplus_know_roles() -> None:
    """Have PEFT's `create_loraplus_optimizer` raise the rate of 𝒱, and not that of λ.

    PEFT knows the factor whose rate is raised by LoRA's name of it, or by its one dimension, which
    λ has.
    """
    for module in (optimizers, loraplus):
        wrap_once(module, "create_loraplus_optimizer", _by_role)


def _by_role(original: Callable[..., Optimizer]) -> Callable[..., Optimizer]:
    def create(model: nn.Module, *arguments: Any, **named: Any) -> Optimizer:
        optimizer = original(model, *arguments, **named)
        pairs = [
            pair
            for pair in _singular_values_and_v(model)
            if all(each.requires_grad for each in pair)
        ]
        other = {id(lam): V for lam, V in pairs} | {id(V): lam for lam, V in pairs}
        for group in optimizer.param_groups:
            group["params"] = [other.get(id(each), each) for each in group["params"]]
        return optimizer

    return create


def warn_of_raised_singular_values(model: nn.Module, optimizer: Optimizer | None) -> None:
    """Warn if λ has a higher learning rate than 𝒱.

    PEFT's helper for LoRA+ gives it where it was imported before this package.
    """
    groups = getattr(optimizer, "param_groups", [])
    rates = {id(p): float(group["lr"]) for group in groups for p in group["params"]}
    factors = _trained(model)
    highest = {
        symbol: max((rates[id(p)] for p in factors[symbol] if id(p) in rates), default=0.0)
        for symbol in ("lam", "V")
    }
    if highest["V"] and highest["lam"] > highest["V"]:
        warnings.warn(
            f"The optimizer gives λ the learning rate {highest['lam']:g} and 𝒱 only "
            f"{highest['V']:g}; if PEFT's create_loraplus_optimizer made it, import lora2 before "
            "it, or use torch.optim.AdamW(lora2.loraplus_groups(model, lr, ratio)) instead.",
            stacklevel=3,
        )


def _trained(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Return the λ and the 𝒱 that are trained, by symbol."""
    pairs = list(_singular_values_and_v(model))
    return {
        symbol: [pair[index] for pair in pairs if pair[index].requires_grad]
        for index, symbol in enumerate(("lam", "V"))
    }


def _singular_values_and_v(model: nn.Module) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
    """Yield λ and 𝒱 of each adapter in each LoRA² layer."""
    for layer in modules_of_type(model, Lora2Layer):
        for adapter_name in layer.lora2_states:
            parameters = layer.parameters_of(adapter_name)
            yield parameters["lam"], parameters["V"]
