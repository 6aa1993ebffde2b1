"""LoRA, PEFT's own; k is its rank."""

from __future__ import annotations

from peft import LoraConfig
from transformers import PreTrainedModel

from lora2.training.methods.checked_options import shared_config
from lora2.training.methods.method import LOW_RANK, Method, Options
from lora2.training.methods.starting import imported
from lora2.training.methods.wrapping import (
    built_with,
    place,
    trained_outside_head,
    wrapped_without_memory,
)


def config(model: PreTrainedModel, options: Options) -> LoraConfig:
    """Return PEFT's config, without the head.

    Raises:
        UserError: an invalid value; it is the same mistake for every method.
    """
    checked = shared_config(options, "LoRA")
    return LoraConfig(
        r=checked.k,
        lora_alpha=checked.lora_alpha,  # type: ignore[arg-type]
        lora_dropout=checked.lora_dropout,
        trainable_token_indices=checked.trainable_token_indices,
        target_parameters=checked.target_parameters,
        **place(model, options),
    )


def _count(model: PreTrainedModel, options: Options) -> int:
    return trained_outside_head(wrapped_without_memory(model, config(model, options)))


METHOD = Method(
    name="lora",
    label="LoRA",
    source="Hu et al. 2022, arXiv 2106.09685",
    trains="B A of each matrix, of fixed rank k",
    formula="k (d_in + d_out)",
    build=built_with(config),
    count=_count,
    options=(*LOW_RANK, "target_parameters"),
    defaults={"lora_alpha": 16.0, "learning_rate": 5e-4},
    as_lora="is one",
    as_lora2=imported,
)
