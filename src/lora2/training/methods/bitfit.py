"""BitFit, by PEFT: a LoRA adapter without modules, and all biases trained."""

from __future__ import annotations

from peft import LoraConfig
from peft.utils.constants import DUMMY_TARGET_MODULES
from torch import nn
from transformers import PreTrainedModel

from lora2.errors import UserError
from lora2.training.base_models.models import BaseModel
from lora2.training.methods.method import Method, Options
from lora2.training.methods.wrapping import is_of_head, with_head, wrap


def biases(model: PreTrainedModel) -> list[nn.Parameter]:
    """Return all biases, heads left out.

    Raises:
        UserError: there is none.
    """
    found = [
        parameter
        for name, parameter in model.named_parameters()
        if name.endswith("bias") and not is_of_head(name)
    ]
    if not found:
        raise UserError(
            f"method: bitfit trains biases, and this model ({model.config.model_type}) has none; "
            "choose another method."
        )
    return found


def _build(base: BaseModel, options: Options, steps: int) -> nn.Module:
    biases(base.model)
    adapter = LoraConfig(
        target_modules=DUMMY_TARGET_MODULES, bias="all", **with_head(base, options)
    )
    return wrap(base.model, adapter)


def _count(model: PreTrainedModel, options: Options) -> int:
    return sum(parameter.numel() for parameter in biases(model))


METHOD = Method(
    name="bitfit",
    label="BitFit",
    source="Zaken et al. 2022, arXiv 2106.10199",
    trains="all biases",
    formula="the biases",
    build=_build,
    count=_count,
    options=("modules_to_save",),
)
