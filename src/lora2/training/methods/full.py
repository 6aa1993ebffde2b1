"""Full fine-tuning: no adapter, and a whole model to save."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from lora2.training.base_models.models import BaseModel
from lora2.training.methods.method import Method, Options
from lora2.training.methods.wrapping import is_of_head


def _build(base: BaseModel, options: Options, steps: int) -> nn.Module:
    model: nn.Module = base.model.requires_grad_(True)
    return model


def _count(model: PreTrainedModel, options: Options) -> int:
    return sum(
        parameter.numel() for name, parameter in model.named_parameters() if not is_of_head(name)
    )


METHOD = Method(
    name="full",
    label="full fine-tuning",
    source="",
    trains="everything",
    formula="all parameters",
    build=_build,
    count=_count,
    defaults={"learning_rate": 5e-5},
    merges=False,
    whole=True,
)
