"""LoRA² in transformers' Trainer and everything derived from it."""

from __future__ import annotations

import base64
import logging
from typing import Any

from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from lora2.errors import UserError
from lora2.trainers.finite_checks import GradientWatch, check_finite, check_loss
from lora2.trainers.logs import add_to_log
from lora2.trainers.optimizer import check_optimizer
from lora2.trainers.trl import fill_reference, keep_small_factors_precise
from lora2.tuners.lora2.allocation.allocator import RankAllocator
from lora2.tuners.lora2.saving import compact_adapter
from lora2.tuners.lora2.training_hook import TrainingHook, installed, trained_adapters

logger = logging.getLogger(__name__)


class Lora2Callback(TrainerCallback, ExportableState):
    """Prunes every trained LoRA² adapter in step with the trainer.

    It learns the number of optimizer steps by itself, allocates after each of them, logs
    `task_loss`, `penalty`, `budget` and `kept_singular_values`, keeps the allocators' state in the
    `trainer_state.json` of every checkpoint and goes on from it, and at the end drops what was
    pruned, so that the saved adapter is compact.
    """

    def __init__(self) -> None:
        self.allocators: dict[str, RankAllocator] = {}
        self._watches: list[GradientWatch] = []
        self._hook: TrainingHook | None = None
        # One that was made for parameters which have been replaced since.
        self._outdated_optimizer: Any = None
        # Allocator states as base64 of safetensors, by adapter: JSON-ready, nothing is unpickled.
        self.saved_allocators: dict[str, str] = {}

    def state(self) -> dict[str, Any]:
        """Return what the trainer writes into each checkpoint's `trainer_state.json`."""
        encoded = {
            name: base64.b64encode(save_safetensors(allocator.state_dict())).decode()
            for name, allocator in self.allocators.items()
        }
        return {"args": {}, "attributes": {"saved_allocators": encoded}}

    def on_init_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        """Put right what TRL's trainers have done, before the model is wrapped for training."""
        if model is not None:
            for name, _ in trained_adapters(model):
                keep_small_factors_precise(model, name)
                fill_reference(model, name)

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        """Make one allocator for each trained adapter, or go on with a saved one.

        Raises:
            UserError: no LoRA² adapter is being trained, its schedule does not fit the number of
                steps, the checkpoint resumed from has no allocator state, or the trainer has
                trained before.
        """
        assert model is not None
        check_optimizer(kwargs.get("optimizer"), self._outdated_optimizer)
        configs = dict(trained_adapters(model))
        if not configs:
            raise UserError(
                "Lora2Callback found no trainable LoRA² adapter in the model: wrap it with "
                "get_peft_model(model, Lora2Config(...)), or leave the callback out."
            )
        self.allocators = {
            name: RankAllocator(model, state.max_steps, name, config=config, resumable=True)
            for name, config in configs.items()
        }
        if state.global_step > 0:
            self._restore(state)
        self._hook = installed(model)
        # float16's loss scaler expects overflows and skips those steps by itself.
        self._watches = [] if args.fp16 else [GradientWatch(model, name) for name in configs]

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        """Stop before a gradient that is NaN or infinite can reach the weights."""
        if model is not None and not args.fp16:
            for watch in self._watches:
                watch.check()
            for name in self.allocators:
                check_finite(model, name)

    def on_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Allocate; the gradients of the step just taken are still there."""
        if self._hook is not None:
            self._hook.end_step()
        for allocator in self.allocators.values():
            allocator.step()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add the budget, and the loss with and without penalty, to the trainer's training logs."""
        if logs is None or "loss" not in logs or not self.allocators:
            return
        loss = float(logs["loss"])
        check_loss(loss, state.global_step)
        penalty = self._logged_penalty(args)
        added: dict[str, float] = {"task_loss": loss - (penalty or 0.0)}
        if penalty is not None:
            added["penalty"] = penalty
        for name, allocator in self.allocators.items():
            suffix = f"/{name}" if len(self.allocators) > 1 else ""
            added[f"budget{suffix}"] = allocator.budget
            added[f"kept_singular_values{suffix}"] = allocator.kept
        add_to_log(logs, state, added)

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        """Drop what was pruned, once the schedule is over."""
        for watch in self._watches:
            watch.remove()
        if model is None:
            return
        for name, allocator in self.allocators.items():
            if allocator.finished and allocator.config.prunes:
                compact_adapter(model, name)
                self._outdated_optimizer = kwargs.get("optimizer")

    def _logged_penalty(self, args: TrainingArguments) -> float | None:
        """What the penalty contributes to the loss that the trainer logs."""
        penalty = self._hook.take_mean_penalty() if self._hook else None
        if penalty is None or self._hook is None or not self._hook.losses_are_summed:
            return penalty
        # Where the losses are added up, each process's is multiplied by their number.
        return penalty * (args.world_size if args.average_tokens_across_devices else 1)

    def _restore(self, state: TrainerState) -> None:
        stored = state.stateful_callbacks.get(type(self).__name__)
        entry = stored[0] if isinstance(stored, list) else stored
        saved = (entry or {}).get("attributes", {}).get("saved_allocators") or self.saved_allocators
        for name, allocator in self.allocators.items():
            if name not in saved:
                raise UserError(
                    f"The checkpoint at step {state.global_step} holds no allocator state of "
                    f"adapter {name!r}, so pruning cannot go on: resume from a checkpoint that "
                    "was made with Lora2Callback, or start anew."
                )
            allocator.load_state_dict(load_safetensors(base64.b64decode(saved[name])))
            if allocator.completed_steps != state.global_step:
                logger.warning(
                    "The allocator had done %d steps and the trainer %d.",
                    allocator.completed_steps,
                    state.global_step,
                )
