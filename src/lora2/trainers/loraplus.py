"""LoRA+ (arXiv 2402.12354) for LoRA²: a higher learning rate for the factor that starts at zero."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn
from torch.optim import Optimizer

from lora2.errors import UserError
from lora2.support.field_types import is_finite_number
from lora2.tuners.base.checked_model import check_is_module
from lora2.tuners.base.layers.finding import modules_of_type
from lora2.tuners.lora2.layer import Lora2Layer


def loraplus_groups(
    model: nn.Module, lr: float, ratio: float, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """Return parameter groups for an optimizer: 𝒱 at lr · ratio, all other trained ones at lr.

    𝒱 starts at zero and is LoRA's B, whose rate LoRA+ raises. PEFT's `create_loraplus_optimizer`
    knows B by its name in LoRA, and would raise the rate of λ.

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


def warn_of_raised_singular_values(model: nn.Module, optimizer: Optimizer | None) -> None:
    """Warn if λ has a higher learning rate than 𝒱, as PEFT's helper for LoRA+ gives it."""
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
            f"{highest['V']:g}: PEFT's create_loraplus_optimizer knows LoRA's names alone. Use "
            "torch.optim.AdamW(lora2.loraplus_groups(model, lr, ratio)) instead.",
            stacklevel=3,
        )


def _trained(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The trained factors of all LoRA² layers, by symbol."""
    found: dict[str, list[nn.Parameter]] = {"lam": [], "V": []}
    for layer in modules_of_type(model, Lora2Layer):
        for adapter_name in layer.lora2_states:
            parameters = layer.parameters_of(adapter_name)
            for symbol, into in found.items():
                if parameters[symbol].requires_grad:
                    into.append(parameters[symbol])
    return found
