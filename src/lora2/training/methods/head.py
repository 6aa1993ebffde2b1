"""The head alone, on a frozen model: what every other method must beat."""

from __future__ import annotations

from peft import LoraConfig
from peft.utils.constants import DUMMY_TARGET_MODULES
from torch import nn

from lora2.training.base_models.models import BaseModel
from lora2.training.methods.method import Method, Options
from lora2.training.methods.wrapping import with_head, wrap
from lora2.training.options.run_arguments import HEAD_ALONE


def _build(base: BaseModel, options: Options, steps: int) -> nn.Module:
    return wrap(
        base.model, LoraConfig(target_modules=DUMMY_TARGET_MODULES, **with_head(base, options))
    )


METHOD = Method(
    name=HEAD_ALONE,
    label="head alone",
    source="",
    trains="nothing else",
    formula="0",
    build=_build,
    count=lambda model, options: 0,
    options=("modules_to_save",),
    head_alone=True,
)
