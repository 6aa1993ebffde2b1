"""Checks that the labels of a run, and the loss of its model, can be smoothed."""

from __future__ import annotations

from torch import nn

from lora2.data.tasks.task import Task
from lora2.errors import UserError
from lora2.tuners.lora2.config import Lora2Config


def check_has_classes(smoothing: float, task: Task) -> None:
    """Check that labels which are to be smoothed are classes.

    Raises:
        UserError: they are numbers.
    """
    if smoothing and getattr(task, "kind", None) == "regression":
        raise UserError(
            f"label_smoothing_factor={smoothing} is for classes, and the labels of {task.name} are "
            "numbers; leave it out."
        )


def check_has_no_penalty(smoothing: float, model: nn.Module, label: str) -> None:
    """Check that no penalty gets lost where the loss is smoothed; label: the method's.

    Raises:
        UserError: one would.
    """
    if smoothing and _adds_penalty(model):
        raise UserError(
            f"label_smoothing_factor={smoothing}: a smoothed loss is made outside of the model, "
            f"where the penalty of {label} does not reach it; leave it out, or take "
            "--method lora2 with --orthogonality exact."
        )


def _adds_penalty(model: nn.Module) -> bool:
    """Whether LoRA² or AdaLoRA adds a penalty to the loss."""
    config = getattr(model, "peft_config", {}).get("default")
    if isinstance(config, Lora2Config):
        return config.has_penalty
    return bool(getattr(config, "orth_reg_weight", 0))
