"""The reference of a training of preferences: the model as it was before the training."""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.tuners_utils import BaseTuner
from torch import nn
from transformers import PreTrainedModel

from lora2.exchange.verification import copy_sharing_weights
from lora2.training.base_models.models import BaseModel
from lora2.training.finished_run.loaded_run import LoadedRun
from lora2.training.methods.registry import method_of
from lora2.training.options.arguments import RunSettings
from lora2.tuners.base.config.target_config import TargetConfig


@torch.no_grad()
def reference_at_start(model: nn.Module, settings: RunSettings) -> PreTrainedModel:
    """Return the reference of a model that is ready to train; it shares what is not trained.

    That is the base model without the adapter; or, where the training starts from an adapter, or
    PEFT has taken the start of one out of the weights, the model with the adapter as it is now.
    """
    copied: Any = copy_sharing_weights(model)
    pairs = zip(model.named_parameters(), copied.named_parameters(), strict=True)
    for (_, parameter), (_, own) in pairs:
        if parameter.requires_grad:
            own.data = parameter.detach().clone()
    if _unloads(copied, settings):
        unloaded: PreTrainedModel = copied.unload()
        return unloaded
    return _within(copied)


def reference_of_run(run: LoadedRun, base: BaseModel | None) -> PreTrainedModel:
    """Return the reference of a finished run; base: its base model, where `needs_base` says so."""
    model: Any = run.model
    if base is None:
        unloaded: PreTrainedModel = copy_sharing_weights(model).unload()
        return unloaded
    base.model.to(model.device)
    if run.settings.adapter["start_from"] is None:
        return base.model
    method = method_of(run.settings)
    return _within(method.build(base, run.settings.adapter, 1).eval())


def needs_base(run: LoadedRun) -> bool:
    """Whether the reference of a run cannot be had by taking its adapter off."""
    model: Any = run.model
    # Modules that were trained whole keep their trained weights when the adapter is taken off.
    return not _unloads(model, run.settings) or bool(model.peft_config["default"].modules_to_save)


def without_peft_model(model: Any) -> Any:
    """Return the base model with the adapter's layers in it; a model with prompts as it is."""
    return _within(model) if isinstance(getattr(model, "base_model", None), BaseTuner) else model


def _within(model: Any) -> Any:
    """Return the plain model in a PeftModel, which is what TRL takes for a reference."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def _unloads(model: Any, settings: RunSettings) -> bool:
    """Whether the base model is what is left when the adapter is taken off."""
    # PEFT's other methods may have changed the weights below their adapter.
    if settings.adapter["start_from"] is not None or method_of(settings).from_peft:
        return False
    configs = getattr(model, "peft_config", {})
    return isinstance(configs.get("default"), TargetConfig | LoraConfig)
