"""Leaves out the step that a training does too many when it is resumed at its end."""

from __future__ import annotations

from torch import nn
from transformers import TrainerState, TrainingArguments


def leave_out_extra_step(model: nn.Module, args: TrainingArguments, state: TrainerState) -> None:
    """Let the optimizer change nothing once all steps are done.

    transformers 5.23, resumed from a checkpoint of the last step that is not the last of an epoch,
    does one more step. An optimizer leaves a parameter without a gradient as it is. float16's loss
    scaler and DeepSpeed want gradients: there the step is made.
    """
    if state.global_step < state.max_steps or args.mixed_precision == "fp16" or args.deepspeed:
        return
    for parameter in model.parameters():
        parameter.grad = None
