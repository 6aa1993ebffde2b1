"""Stops a run of any method once its loss is no number."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lora2.trainers.finite_checks import check_loss


class LossCheck(TrainerCallback):
    """Checks every training loss that is logged.

    Of LoRA², Lora2Callback names the layer before it gets here; nothing else watches the others.
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
        if logs is not None and "loss" in logs:
            check_loss(float(logs["loss"]), state.global_step)
