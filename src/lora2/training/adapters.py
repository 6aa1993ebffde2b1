"""What a model that is ready to train holds: its trained parameters, and its budget."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from peft import get_peft_model_state_dict
from torch import nn

from lora2.training.methods.wrapping import HEADS
from lora2.training.trained_parts import trained_parts
from lora2.tuners.base.distributed.zero import numbers_of
from lora2.tuners.base.token_rows.finding import rows_of, trained_rows
from lora2.tuners.lora2.allocation.budget import plan_budget
from lora2.tuners.lora2.allocation.final_sizes import final_sizes
from lora2.tuners.lora2.config import Lora2Config
from lora2.tuners.lora2.layer import adapted_layers
from lora2.tuners.lora2.saving import is_of_adapter


def count_parameters(model: nn.Module, head: Collection[str] = HEADS) -> dict[str, int]:
    """Return the trainable parameters of the "adapter" and of the "head".

    Modules that this run trains whole are counted with the adapter.

    head: ends of the names of modules that every method trains, see `head_names`.
    """
    parts = trained_parts(model, head)
    return {
        "adapter": _numbers(parts.adapter) + _numbers(parts.whole),
        "head": _numbers(parts.head),
    }


def count_final_parameters(model: nn.Module, head: Collection[str]) -> dict[str, int]:
    """Return the same of a trained model, as it is saved.

    Where an engine splits the adapter, what was pruned is still in memory; all processes must take
    part.
    """
    counts = count_parameters(model, head)
    layers = adapted_layers(model, "default").values()
    if any(layer.lora2_states["default"].is_finished for layer in layers):
        saved = get_peft_model_state_dict(model, save_embedding_layers=False)
        left = sum(tensor.numel() for name, tensor in saved.items() if is_of_adapter(name))
        counts["adapter"] += left - _numbers(trained_parts(model, head).adapter)
    return counts


def _numbers(parameters: Iterable[nn.Parameter]) -> int:
    return sum(map(numbers_of, parameters))


def adds_penalty(model: nn.Module) -> bool:
    """Whether LoRA² or AdaLoRA adds a penalty to the loss."""
    config = getattr(model, "peft_config", {}).get("default")
    if isinstance(config, Lora2Config):
        return config.has_penalty
    return bool(getattr(config, "orth_reg_weight", 0))


def final_size(model: nn.Module, head: Collection[str] = HEADS) -> tuple[int, int] | None:
    """Return the fewest and the most parameters that pruning leaves, as a LoRA; None of others.

    As at the start, modules that this run trains whole are counted, and the head is not.
    """
    config = getattr(model, "peft_config", {}).get("default")
    if not isinstance(config, Lora2Config) or not config.prunes:
        return None
    layers = adapted_layers(model, "default").values()
    rows = sum(rows_of(wrapper, "default").numel() for _, wrapper in trained_rows(model, "default"))
    others = rows + _numbers(trained_parts(model, head).whole)
    fewest, most = final_sizes(config, [layer.matrix_size("default") for layer in layers])
    return fewest + others, most + others


def budget_in_words(model: nn.Module, steps: int) -> str:
    """Return the budget schedule in words.

    Raises:
        UserError: it does not fit the number of optimizer steps.
    """
    config = getattr(model, "peft_config", {}).get("default")
    if not isinstance(config, Lora2Config):
        return "none"
    layers = adapted_layers(model, "default").values()
    matrices = [layer.matrix_size("default") for layer in layers]
    plan = plan_budget(config, matrices, steps)
    if plan.target == plan.initial:
        return f"{sum(matrix.r for matrix in matrices)} singular values, none are pruned"
    return (
        f"{plan.initial:,} → {plan.target:,} {plan.unit_in_words} ({plan.shape}), pruned from step "
        f"{plan.warmup_steps} to {plan.last_change} of {steps}"
    )
