"""Whether PEFT can put what a method trained into the weights: asked of PEFT, on one layer."""

from __future__ import annotations

import copy

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer

from lora2.support.error_text import reason_of
from lora2.tuners.base.config.target_config import TargetConfig


@torch.no_grad()
def reason_against_merging(model: PeftModel) -> str | None:
    """Return PEFT's reason for not merging an adapter of its own; None if it merges.

    One layer is copied and merged. Of the methods that are known to merge, and where several
    processes hold a layer in parts, nothing is tried.
    """
    config = model.peft_config[model.active_adapter]
    if isinstance(config, LoraConfig | TargetConfig) or torch.distributed.is_initialized():
        return None
    if not isinstance(model.base_model, BaseTuner):
        return f"PEFT has no merge for {config.peft_type.value}"
    layer = next((each for each in model.modules() if isinstance(each, BaseTunerLayer)), None)
    if layer is None or layer.merged or any(tensor.is_meta for tensor in layer.parameters()):
        return None
    try:
        copy.deepcopy(layer).merge(safe_merge=True)
    except Exception as error:  # whatever the method raises
        return reason_of(error)
    return None
