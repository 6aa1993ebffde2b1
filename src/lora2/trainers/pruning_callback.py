"""What the callbacks of all methods that prune do in the same way."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lora2.errors import UserError
from lora2.trainers.optimizer import check_optimizer_is_new
from lora2.tuners.base.config.target_config import TargetConfig
from lora2.tuners.base.model.placement import PlacedAdapter, trained_adapters

ConfigT = TypeVar("ConfigT", bound=TargetConfig)


class PruningCallback(TrainerCallback, Generic[ConfigT]):
    """Finds the trained adapters of a method, and prunes them after each step of the training.

    Attributes:
        config_type: the class of the method's configs.
    """

    config_type: type[ConfigT]

    def __init__(self) -> None:
        self._adapters: dict[str, PlacedAdapter[ConfigT]] = {}
        # One that was made for parameters which have been replaced since.
        self._outdated_optimizer: Any = None

    def _find_adapters(self, model: nn.Module, optimizer: Any) -> None:
        """Find the adapters that are being trained.

        Raises:
            UserError: there is none, or the trainer has trained before.
        """
        check_optimizer_is_new(optimizer, self._outdated_optimizer)
        found = trained_adapters(model, self.config_type)
        if not found:
            raise UserError(
                f"{type(self).__name__} found no trainable {self.config_type.label} adapter in the "
                f"model: wrap it with get_peft_model(model, {self.config_type.__name__}(...)), or "
                "leave the callback out."
            )
        self._adapters = {adapter.label: adapter for adapter in found}

    def _end_step(self, optimizer: Any) -> None:
        """Prune, after an optimizer step."""
        raise NotImplementedError

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        """Let the optimizer change nothing once all steps are done.

        transformers 5.23, resumed from a checkpoint of the last step that is not the last of an
        epoch, does one more step. An optimizer leaves a parameter without a gradient as it is.
        float16's loss scaler and DeepSpeed want gradients: there the step is made.
        """
        if model is None or state.global_step < state.max_steps:
            return
        if args.mixed_precision != "fp16" and not args.deepspeed:
            for parameter in model.parameters():
                parameter.grad = None

    def on_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Prune, unless it is the step too many of a training that was resumed at its end."""
        if state.global_step < state.max_steps:
            self._end_step(kwargs.get("optimizer"))
