"""What a model that is ready to train holds: its trained parameters."""

from __future__ import annotations

from collections.abc import Collection

from peft import get_peft_model_state_dict
from torch import nn

from lora2.training.trained_parts import total_numbers, trained_parts
from lora2.tuners.lora2.config import Lora2Config
from lora2.tuners.lora2.layer import lora2_layers
from lora2.tuners.lora2.saving import is_of_adapter


def count_parameters(model: nn.Module, head: Collection[str]) -> dict[str, int]:
    """Return the trainable parameters of the "adapter" and of the "head".

    Modules that this run trains whole are counted with the adapter.

    head: ends of the names of modules that every method trains, see `head_names`.
    """
    parts = trained_parts(model, head)
    return {
        "adapter": total_numbers(parts.adapter) + total_numbers(parts.whole),
        "head": total_numbers(parts.head),
    }


def count_final_parameters(model: nn.Module, head: Collection[str]) -> dict[str, int]:
    """Return the same of a trained model, as it is saved.

    Where an engine splits the adapter, what was pruned is still in memory; all processes must take
    part.
    """
    counts = count_parameters(model, head)
    layers = lora2_layers(model, "default").values()
    if any(layer.lora2_states["default"].is_finished for layer in layers):
        saved = get_peft_model_state_dict(model, save_embedding_layers=False)
        left = sum(tensor.numel() for name, tensor in saved.items() if is_of_adapter(name))
        counts["adapter"] += left - total_numbers(trained_parts(model, head).adapter)
    return counts


def adds_penalty(model: nn.Module) -> bool:
    """Whether LoRA² or AdaLoRA adds a penalty to the loss."""
    config = getattr(model, "peft_config", {}).get("default")
    if isinstance(config, Lora2Config):
        return config.has_penalty
    return bool(getattr(config, "orth_reg_weight", 0))
