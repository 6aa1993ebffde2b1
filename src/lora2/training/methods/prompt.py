"""Prompt tuning, PEFT's own: trained vectors in front of the embedded text."""

from __future__ import annotations

from peft import PromptTuningConfig, TaskType
from torch import nn
from transformers import PreTrainedModel

from lora2.training.methods.method import Method, Options
from lora2.training.methods.wrapping import wrap
from lora2.training.models import BaseModel


def _build(base: BaseModel, options: Options, steps: int) -> nn.Module:
    # PEFT trains the head with it, and has no other modules to save here.
    return wrap(
        base.model,
        PromptTuningConfig(
            task_type=TaskType.SEQ_CLS, num_virtual_tokens=options["virtual_tokens"]
        ),
    )


def _count(model: PreTrainedModel, options: Options) -> int:
    width: int = model.get_input_embeddings().weight.shape[1]
    return options["virtual_tokens"] * width


METHOD = Method(
    name="prompt",
    label="prompt tuning",
    source="Lester et al. 2021, arXiv 2104.08691",
    trains="vectors in front of the text",
    formula="tokens · d",
    build=_build,
    count=_count,
    start="other",
    merges=False,
)
