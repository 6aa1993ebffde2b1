"""The budget of a model that is ready to train, and how small pruning can make its adapter."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from peft import AdaLoraConfig
from peft.tuners.adalora import AdaLoraLayer
from torch import nn

from lora2.training.parameter_counts import total_numbers, trained_parts
from lora2.tuners.base.token_rows.finding import rows_of, trained_rows
from lora2.tuners.lora2.allocation.budget import plan_budget
from lora2.tuners.lora2.allocation.final_sizes import final_sizes, sizes_of_values
from lora2.tuners.lora2.config import Lora2Config
from lora2.tuners.lora2.layer import lora2_layers
from lora2.tuners.lora2.matrix_size import MatrixSize
from lora2.tuners.sora import SoraConfig

_NAME = "default"


def final_size(model: nn.Module, head: Collection[str]) -> tuple[int, int] | None:
    """Return the fewest and the most parameters that pruning leaves, as a LoRA.

    None of a method without a target. As at the start, modules that this run trains whole are
    counted, and the head is not.

    head: ends of the names of modules that every method trains, see `head_names`.
    """
    config = _config(model)
    if isinstance(config, Lora2Config) and config.prunes:
        fewest, most = final_sizes(config, _matrices(model))
    elif isinstance(config, AdaLoraConfig):
        matrices = _matrices_of_adalora(model)
        fewest, most = sizes_of_values(config.target_r * len(matrices), matrices)
    else:
        return None
    rows = sum(rows_of(wrapper, _NAME).numel() for _, wrapper in trained_rows(model, _NAME))
    others = rows + total_numbers(trained_parts(model, head).whole)
    return fewest + others, most + others


def budget_in_words(model: nn.Module, steps: int) -> str:
    """Return the budget schedule in words.

    Raises:
        UserError: it does not fit the number of optimizer steps.
    """
    config = _config(model)
    if isinstance(config, Lora2Config):
        return _of_lora2(config, _matrices(model), steps)
    if isinstance(config, AdaLoraConfig):
        count = len(_matrices_of_adalora(model))
        return (
            f"{config.init_r * count:,} → {config.target_r * count:,} singular values (cubic), "
            f"pruned from step {config.tinit} to {steps - config.tfinal} of {steps}"
        )
    return _of_sora(config) if isinstance(config, SoraConfig) else "none"


def _of_lora2(config: Lora2Config, matrices: list[MatrixSize], steps: int) -> str:
    plan = plan_budget(config, matrices, steps)
    if not plan.prunes:
        return f"{sum(matrix.r for matrix in matrices)} singular values, none are pruned"
    return (
        f"{plan.initial:,} → {plan.target:,} {plan.unit_in_words} ({plan.shape}), pruned from step "
        f"{plan.warmup_steps} to {plan.last_change} of {steps}"
    )


def _of_sora(config: SoraConfig) -> str:
    """Say what decides how many gates are left, which is known at the end alone."""
    grows = config.threshold_schedule != "constant"
    up_to = f" to {config.max_threshold:g} ({config.threshold_schedule})" if grows else ""
    return f"none; gates shrink by {config.threshold:g}{up_to} a step, and closed ones are pruned"


def _config(model: nn.Module) -> Any:
    return getattr(model, "peft_config", {}).get(_NAME)


def _matrices(model: nn.Module) -> list[MatrixSize]:
    return [layer.matrix_size(_NAME) for layer in lora2_layers(model, _NAME).values()]


def _matrices_of_adalora(model: Any) -> list[MatrixSize]:
    factors: list[tuple[Any, Any]] = [
        (module.lora_A[_NAME], module.lora_B[_NAME])
        for module in model.modules()
        if isinstance(module, AdaLoraLayer) and _NAME in module.lora_A
    ]
    return [MatrixSize((a.numel() + b.numel()) // len(a), k=len(a), r=len(a)) for a, b in factors]
