"""The trainer of all runs that learn preferences: TRL's, with what adapters add to the loss.

TRL is an extra: import this module only after `require("trl", ...)`.
"""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel
from trl import DPOTrainer

from lora2.exchange.verification import sharing_copy
from lora2.training.run_trainer import RunBase
from lora2.training.trl_penalty import WithPenalty


class RunDpoTrainer(WithPenalty, RunBase, DPOTrainer):
    """TRL's DPOTrainer for LoRA² and all other methods."""

    def _prepare_dataset(self, dataset: Any, *arguments: Any) -> Any:
        # Rows are tokenized before there is an adapter, whose schedule depends on their number.
        if "prompt_ids" in dataset.column_names:
            return dataset
        return super()._prepare_dataset(dataset, *arguments)


@torch.no_grad()
def frozen_copy(model: nn.Module) -> PreTrainedModel:
    """Return what a model computes now, to compare with: it shares the weights that stay as is.

    Of a PeftModel it is the base model with its adapter in it, which TRL takes for a plain one: so
    a method whose start changes the model, or an adapter that was trained before, is compared with
    that start.
    """
    copied: Any = sharing_copy(model)
    for (_, parameter), (_, own) in zip(
        model.named_parameters(), copied.named_parameters(), strict=True
    ):
        if parameter.requires_grad:
            own.data = parameter.detach().clone()
    reference: PreTrainedModel = (
        copied.get_base_model() if isinstance(copied, PeftModel) else copied
    )
    return reference
