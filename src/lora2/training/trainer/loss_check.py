"""Stops a run of any method once a loss that it logs, or at the end a weight, is not finite."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lora2.trainers.divergence import check_loss
from lora2.training.trainer.step_check import check_trained_weights


class LossCheck(TrainerCallback):
    """Checks every loss that is logged, of training and of validation.

    `check_step` has seen the loss of training before, but not with float16's loss scaler.
    """

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Stop if the loss is NaN or infinite.

        Raises:
            NumericalError: it is.
        """
        for name, value in (logs or {}).items():
            # Several validation sets have names of their own, such as "eval_matched_loss".
            if name == "loss" or (name.startswith("eval_") and name.endswith("_loss")):
                kind = "training" if name == "loss" else "validation"
                check_loss(float(value), state.global_step, kind)

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        """Stop if the last steps have made a trained weight NaN or infinite, before it is saved.

        Raises:
            NumericalError: naming it.
        """
        if model is not None:
            check_trained_weights(model, state.global_step)
