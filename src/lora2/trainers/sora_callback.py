"""SoRA in transformers' Trainer."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn
from transformers import TrainerControl, TrainerState, TrainingArguments

from lora2.trainers.logs import (
    add_to_log,
    advice_on_best_model,
    has_loaded_best_model,
    last_logged,
    log_of_best_model,
)
from lora2.trainers.pruning_callback import PruningCallback
from lora2.tuners.sora.config import SoraConfig
from lora2.tuners.sora.gates import GateThreshold, prune_gates

_OPEN_GATES = "open_gates"


class SoraCallback(PruningCallback[SoraConfig]):
    """Thresholds the gates after each optimizer step, logs how many are open, prunes at the end.

    ξ depends on the number of the step alone, so a resumed training needs no state of its own.
    """

    config_type = SoraConfig

    def __init__(self) -> None:
        super().__init__()
        self.thresholds: dict[str, GateThreshold] = {}

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
        self._find_adapters(model, kwargs.get("optimizer"))
        self.thresholds = {
            label: GateThreshold(
                each.module, state.max_steps, each.name, completed_steps=state.global_step
            )
            for label, each in self._adapters.items()
        }

    def _end_step(self, optimizer: Any) -> None:
        """Threshold the gates that the optimizer has just moved."""
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
        add_to_log(logs, state, {_OPEN_GATES: self._open_gates()})

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        """Drop closed gates, once all steps are done, and warn of a best model with other gates."""
        if model is None:
            return
        if has_loaded_best_model(args, state):
            self._check_best_model(args, state)
        for label, threshold in self.thresholds.items():
            if threshold.completed_steps >= threshold.total_steps:
                prune_gates(self._adapters[label].module, self._adapters[label].name)
                self._outdated_optimizer = kwargs.get("optimizer")

    def _check_best_model(self, args: TrainingArguments, state: TrainerState) -> None:
        logged, found = last_logged(state, _OPEN_GATES), self._open_gates()
        if logged is None or found == logged:
            return
        log_of_best_model(state, {_OPEN_GATES: found})
        warnings.warn(
            f"load_best_model_at_end has loaded the checkpoint of step {state.best_global_step}, "
            f"in which {found} gates are open and not {logged}, as logged last: that model is kept "
            "as it was measured. " + advice_on_best_model(args, state, state.max_steps),
            stacklevel=2,
        )

    def _open_gates(self) -> int:
        return sum(threshold.open_gates for threshold in self.thresholds.values())
