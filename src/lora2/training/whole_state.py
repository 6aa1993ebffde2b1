"""The tensors of a trained model that an engine has split over the processes, as wholes."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import Trainer

from lora2.tuners.base.distributed.whole import whole_by_name
from lora2.tuners.base.distributed.zero import held_by_name, is_partitioned


def whole_state(trainer: Trainer) -> dict[str, Tensor] | None:
    """Return what is to be saved of the model; None where each process has all of it.

    All processes must take part, and each gets what it needs to write the files alone.
    """
    accelerator = trainer.accelerator
    model: Any = accelerator.unwrap_model(trainer.model)
    if trainer.is_fsdp_enabled:
        state: dict[str, Tensor] = accelerator.get_state_dict(trainer.model_wrapped)
        return state
    if not any(is_partitioned(each) for each in model.parameters()):
        return None
    # Of what stage 3 has partitioned, the frozen weights are not wanted.
    frozen = {name for name, each in model.named_parameters() if not each.requires_grad}
    state = {name: value for name, value in model.state_dict().items() if name not in frozen}
    return whole_by_name(held_by_name(model, state))
