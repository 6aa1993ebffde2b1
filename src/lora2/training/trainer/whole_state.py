"""The tensors of a trained model that an engine has split over the processes, as wholes."""

from __future__ import annotations

from typing import Any

from peft import PeftModel
from torch import Tensor
from transformers import Trainer

from lora2.tuners.base.distributed.gathering import is_sharded, whole_by_name
from lora2.tuners.base.distributed.zero import with_partitioned


def whole_state(trainer: Trainer) -> dict[str, Tensor] | None:
    """Return what is to be saved of the model; None where each process has all of it.

    All processes must take part, and each gets what it needs to write the files alone.
    """
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    if not any(map(is_sharded, model.parameters())):
        return None
    state = model.state_dict()
    if isinstance(model, PeftModel):
        # Its frozen weights are the base model's, and an adapter is saved without them.
        frozen = {name for name, each in model.named_parameters() if not each.requires_grad}
        state = {name: value for name, value in state.items() if name not in frozen}
    return whole_by_name(with_partitioned(model, state))
