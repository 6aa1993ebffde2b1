"""What a model card says of an adapter, read from the live model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from peft import AdaLoraConfig, LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from lora2.exchange.merge_support import reason_against_merging
from lora2.exchange.model_card.base_model import BaseModelName, base_model_name
from lora2.tuners.base.config.target_config import TargetConfig
from lora2.tuners.base.layers.finding import adapted_layers
from lora2.tuners.base.names.peft_names import ROWS


@dataclass(frozen=True)
class AdapterFacts:
    """An adapter as its card describes it.

    Attributes:
        method: the method's name.
        needs_lora2: whether PEFT alone does not know the method.
        merge_refusal: why it cannot be put into the weights; None if it can.
        type_name: PEFT's name of the method, which its error shows.
        size: the sizes that its config gives, in Markdown.
        ranks: by module, how many of `pruned_parts` it has kept; empty if that is not known, as of
            sharded parameters.
        base: the base model.
        base_class: name of the transformers class that loads it; None for other models.
        labels: number of outputs of a classification head, or None.
        task_type: PEFT's name of the task, or None.
        vocabulary: rows of the base model's embedding, if the adapter trains some of them.
        pruned_parts: what the layers of the method lose when they are pruned.
    """

    method: str
    needs_lora2: bool
    merge_refusal: str | None
    type_name: str
    size: str
    ranks: dict[str, int]
    base: BaseModelName
    base_class: str | None
    labels: int | None
    task_type: str | None
    vocabulary: int | None = None
    pruned_parts: str = TargetConfig.pruned_parts


_SIZES = ("r", "oft_block_size", "boft_block_size", "boft_block_num", "lora_alpha")
# It inherits LoRA's r, and does not read it.
_SIZES_OF_ADALORA = ("init_r", "target_r", "lora_alpha")

# PEFT's names of tasks, and the class that loads a model for them with its pipeline on the hub.
_TASKS = {
    "SEQ_CLS": ("AutoModelForSequenceClassification", "text-classification"),
    "TOKEN_CLS": ("AutoModelForTokenClassification", "token-classification"),
    "QUESTION_ANS": ("AutoModelForQuestionAnswering", "question-answering"),
    "CAUSAL_LM": ("AutoModelForCausalLM", "text-generation"),
    "SEQ_2_SEQ_LM": ("AutoModelForSeq2SeqLM", None),
    "FEATURE_EXTRACTION": ("AutoModel", "feature-extraction"),
}
# The tasks without a name of PEFT's, by the end of the name of the class.
_PIPELINES_OF_CLASSES = {"ForImageClassification": "image-classification"}


def pipeline_of(facts: AdapterFacts) -> str | None:
    """Return the hub's name of the task, where it has one."""
    if facts.task_type is not None:
        return _TASKS.get(facts.task_type, (None, None))[1]
    names = _PIPELINES_OF_CLASSES.items()
    return next((name for end, name in names if (facts.base_class or "").endswith(end)), None)


def facts_of(model: PeftModel, adapter_name: str | None = None) -> AdapterFacts:
    """Return what is known of an adapter of any PEFT method; of the active one by default."""
    name: Any = adapter_name or model.active_adapter
    config: Any = model.peft_config[name]
    ours = config if isinstance(config, TargetConfig) else None
    base: Any = model.get_base_model()
    task_type = None if config.task_type is None else _word(config.task_type)
    is_transformers = isinstance(base, PreTrainedModel)
    loads_with = _TASKS.get(task_type or "", (type(base).__name__, None))[0]
    trains_rows = is_transformers and bool(getattr(config, ROWS, None))
    # Without a task type, the class tells whether there is such a head.
    has_labels = is_transformers and str(loads_with).endswith("Classification")
    return AdapterFacts(
        method=_word(config.peft_type) if ours is None else ours.label,
        needs_lora2=ours is not None,
        merge_refusal=_merge_refusal(model, config),
        type_name=_word(config.peft_type),
        size=_size_of(config, base) if ours is None else ours.sizes_in_words(),
        ranks=_ranks_of(base, name),
        base=base_model_name(base),
        base_class=loads_with if is_transformers else None,
        labels=base.config.num_labels if has_labels else None,
        task_type=task_type,
        vocabulary=base.get_input_embeddings().num_embeddings if trains_rows else None,
        pruned_parts=TargetConfig.pruned_parts if ours is None else ours.pruned_parts,
    )


def _merge_refusal(model: PeftModel, config: Any) -> str | None:
    is_change = config.merges if isinstance(config, TargetConfig) else not config.is_prompt_learning
    if not is_change:
        return "it is not a change of them"
    reason = reason_against_merging(model)
    return None if reason is None else f"PEFT does not merge it ({reason})"


def _word(member: Any) -> str:
    """The value of one of PEFT's enumerations, which may be a plain word in a user's config."""
    return str(getattr(member, "value", member))


def _size_of(config: Any, base: nn.Module) -> str:
    if isinstance(config, LoraConfig) and not any(
        isinstance(module, LoraLayer) for module in base.modules()
    ):
        # What trains biases, token rows or the head alone is a LoRA without modules to PEFT.
        return ""
    names = _SIZES_OF_ADALORA if isinstance(config, AdaLoraConfig) else _SIZES
    # OFT and BOFT set a size to 0 that follows from another.
    values = {name: value for name in names if (value := getattr(config, name, None))}
    return ", ".join(f"{name} = {value:g}" for name, value in values.items())


def _ranks_of(base: nn.Module, adapter_name: str) -> dict[str, int]:
    ranks = {}
    for name, layer in adapted_layers(base, adapter_name).items():
        held, factor = layer.prunable(adapter_name)
        if not _is_whole(held) or factor.dim() != 2 or len(factor) != len(held):
            return {}
        ranks[name] = int(torch.count_nonzero(held))
    return ranks


def _is_whole(tensor: Tensor) -> bool:
    # To count in a sharded tensor every process would have to, and one alone writes the card.
    return type(tensor) is nn.Parameter and not tensor.is_meta
