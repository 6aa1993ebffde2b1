"""What a model that is ready to train holds: its trained parameters, and its budget."""

from __future__ import annotations

from collections.abc import Collection

from peft import get_peft_model_state_dict
from torch import nn

from lora2.training.methods.whole_modules import HEADS
from lora2.tuners.base.distributed.zero import numbers_of
from lora2.tuners.base.names.module_names import PREFIX
from lora2.tuners.base.token_rows.finding import rows_of, trained_rows
from lora2.tuners.lora2.allocation.budget import plan_budget
from lora2.tuners.lora2.allocation.final_sizes import final_sizes
from lora2.tuners.lora2.config import Lora2Config
from lora2.tuners.lora2.layer import adapted_layers
from lora2.tuners.lora2.saving import is_of_adapter

# Tuners have the first; prompts, which PEFT puts in front of the model, have the second.
_PREFIXES = (PREFIX, "base_model.")


def count_parameters(model: nn.Module, head: Collection[str] = HEADS) -> dict[str, int]:
    """Return the trainable parameters of the "adapter" and of the "head".

    head: names of the modules that are trained with every method: the task's head, and what else
    the pretrained model has no weights for. All other trained parameters are the adapter's.
    """
    counts = {"adapter": 0, "head": 0}
    of_head = {id(parameter) for parameter in trained_parameters_of(model, head)}
    for parameter in model.parameters():
        if parameter.requires_grad:
            counts["head" if id(parameter) in of_head else "adapter"] += numbers_of(parameter)
    return counts


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
        # The adapter's other trained parameters are modules that are trained whole.
        trained = sum(
            numbers_of(parameter)
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and is_of_adapter(name.removesuffix(".default"))
        )
        counts["adapter"] += left - trained
    return counts


def trained_parameters_of(model: nn.Module, modules: Collection[str]) -> list[nn.Parameter]:
    """Return the trainable parameters of modules of the base model, by the modules' names."""
    prefixes = tuple(f"{name}." for name in modules)
    return [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and _name_in_base(name).startswith(prefixes)
    ]


def _name_in_base(name: str) -> str:
    for prefix in _PREFIXES:
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    return name


def adds_penalty(model: nn.Module) -> bool:
    """Whether LoRA² or AdaLoRA adds a penalty to the loss."""
    config = getattr(model, "peft_config", {}).get("default")
    if isinstance(config, Lora2Config):
        return config.has_penalty
    return bool(getattr(config, "orth_reg_weight", 0))


def final_size(model: nn.Module) -> tuple[int, int] | None:
    """Return the fewest and the most parameters that pruning leaves, as a LoRA; None of others."""
    config = getattr(model, "peft_config", {}).get("default")
    if not isinstance(config, Lora2Config) or not config.prunes:
        return None
    layers = adapted_layers(model, "default").values()
    rows = sum(rows_of(wrapper, "default").numel() for _, wrapper in trained_rows(model, "default"))
    fewest, most = final_sizes(config, [layer.matrix_size("default") for layer in layers])
    return fewest + rows, most + rows


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
