"""SoRA in transformers' Trainer."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lora2.errors import UserError
from lora2.trainers.logs import add_to_log
from lora2.trainers.optimizer import check_optimizer
from lora2.tuners.sora.config import SoraConfig
from lora2.tuners.sora.gates import GateThreshold, gated_layers, prune_gates


class SoraCallback(TrainerCallback):
    """Thresholds the gates after each optimizer step, logs how many are open, prunes at the end.

    ξ depends on the number of the step alone, so a resumed training needs no state of its own.
    """

    def __init__(self) -> None:
        self.thresholds: dict[str, GateThreshold] = {}
        # One that was made for parameters which have been replaced since.
        self._outdated_optimizer: Any = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        """Find the SoRA adapters that are being trained.

        Raises:
            UserError: there is none, or the trainer has trained before.
        """
        assert model is not None
        check_optimizer(kwargs.get("optimizer"), self._outdated_optimizer)
        configs: dict[str, Any] = getattr(model, "peft_config", {})
        names = [
            name
            for name, config in configs.items()
            if isinstance(config, SoraConfig)
            and any(layer.trains(name) for layer in gated_layers(model, name).values())
        ]
        if not names:
            raise UserError(
                "SoraCallback found no trainable SoRA adapter in the model: wrap it with "
                "get_peft_model(model, SoraConfig(...)), or leave the callback out."
            )
        self.thresholds = {
            name: GateThreshold(model, state.max_steps, name, completed_steps=state.global_step)
            for name in names
        }

    def on_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Threshold the gates that the optimizer has just moved."""
        # Resumed where it had ended within an epoch, transformers 5.23 does one step too many.
        if state.global_step >= state.max_steps:
            return
        for threshold in self.thresholds.values():
            threshold.step()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add the number of open gates to the trainer's training logs."""
        if logs is None or "loss" not in logs:
            return
        added = {"open_gates": sum(each.open_gates for each in self.thresholds.values())}
        add_to_log(logs, state, added)

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        """Drop closed gates, once all steps are done."""
        for name, threshold in self.thresholds.items():
            if model is not None and threshold.completed_steps >= threshold.total_steps:
                prune_gates(model, name)
                self._outdated_optimizer = kwargs.get("optimizer")
