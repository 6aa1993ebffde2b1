"""LoRA² in transformers' Trainer and everything derived from it."""

from __future__ import annotations

import base64
import logging
import warnings
from typing import Any

from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from lora2.errors import UserError
from lora2.trainers.divergence import GradientWatch, check_loss
from lora2.trainers.extra_step import leave_out_extra_step
from lora2.trainers.first_batches import shuffled_batches
from lora2.trainers.log_names import (
    BUDGET,
    KEPT_PARAMETERS,
    KEPT_VALUES,
    PENALTY,
    TASK_LOSS,
)
from lora2.trainers.logs import (
    add_to_log,
    advice_on_best_model,
    has_loaded_best_model,
    log_of_best_model,
)
from lora2.trainers.loraplus import warn_of_raised_singular_values
from lora2.trainers.optimizer import check_has_one_set_of_weights, check_optimizer_is_new
from lora2.trainers.trl import fill_reference, keep_small_factors_precise
from lora2.tuners.base.model.placement import PlacedAdapter
from lora2.tuners.lora2.allocation.allocator import RankAllocator
from lora2.tuners.lora2.config import Lora2Config
from lora2.tuners.lora2.gradient_start import has_changed, start_from_gradients
from lora2.tuners.lora2.saving import compact_adapter
from lora2.tuners.lora2.training_hook import (
    TrainingHook,
    has_penalty,
    hooks_in,
    trained_adapters,
)

logger = logging.getLogger(__name__)


class Lora2Callback(TrainerCallback, ExportableState):
    """Prunes every trained LoRA² adapter in step with the trainer.

    It learns the number of optimizer steps by itself, allocates after each of them, logs
    `task_loss`, `penalty`, `budget`, `kept_singular_values` and, of a budget in parameters,
    `kept_parameters`, keeps the allocators' state in the `trainer_state.json` of every checkpoint
    and resumes from it, and at the end drops what was pruned, so that the saved adapter is compact.

    The adapters may be anywhere in the model, such as in a module of your own. Where several PEFT
    models in it have an adapter of the same name, each has its own budget, and its allocator's name
    has the PEFT model's before it.

    A training that is resumed with another number of steps follows the schedule of the new number
    (see `RankAllocator.load_state_dict`). A best model of before the end of pruning, loaded by
    `load_best_model_at_end`, is kept as it was measured. A warning says each.

    Attributes:
        allocators: one for each trained adapter, by its name.
    """

    def __init__(self) -> None:
        self.allocators: dict[str, RankAllocator] = {}
        self._adapters: dict[str, PlacedAdapter[Lora2Config]] = {}
        self._watches: list[GradientWatch] = []
        self._hooks: dict[TrainingHook, nn.Module] = {}
        self._was_penalty_checked = False
        self._has_prepared = False
        self._outer_handles: list[RemovableHandle] = []
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
            self._has_prepared = True
            for adapter in trained_adapters(model):
                keep_small_factors_precise(adapter)
                fill_reference(adapter)

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        """Make one allocator for each trained adapter, or restore a saved one.

        Raises:
            UserError: no LoRA² adapter is being trained, its schedule does not fit the number of
                steps, the checkpoint resumed from has no allocator state, or the trainer has
                trained before.
        """
        assert model is not None
        check_optimizer_is_new(kwargs.get("optimizer"), self._outdated_optimizer)
        check_has_one_set_of_weights(kwargs.get("optimizer"), trained_adapters(model))
        warn_of_raised_singular_values(model, kwargs.get("optimizer"))
        self._adapters = {adapter.label: adapter for adapter in trained_adapters(model)}
        if not self._adapters:
            raise UserError(
                "Lora2Callback found no trainable LoRA² adapter in the model: wrap it with "
                "get_peft_model(model, Lora2Config(...)), or leave the callback out."
            )
        self.allocators = {
            label: RankAllocator(
                each.module, state.max_steps, each.name, config=each.config, resumable=True
            )
            for label, each in self._adapters.items()
        }
        if state.global_step > 0:
            self._restore(state)
        else:
            # A callback that was added later has not seen the trainer begin.
            if not self._has_prepared:
                self.on_init_end(args, state, control, model)
            for each in self._adapters.values():
                if each.config.init_weights == "gradient" and not has_changed(
                    each.module, each.name
                ):
                    batches = shuffled_batches(kwargs.get("train_dataloader"), args)
                    start_from_gradients(each.module, batches, each.name)
        self._hooks, self._was_penalty_checked = hooks_in(model), False
        self._outer_handles = [
            handle
            for hook, base in self._hooks.items()
            if base is not model and self._has_penalty()
            for handle in hook.join_loss_of(model, base)
        ]
        # float16's loss scaler expects overflows and skips those steps by itself.
        self._watches = (
            []
            if args.fp16
            else [GradientWatch(each.module, each.name) for each in self._adapters.values()]
        )

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        """Stop before a gradient that is NaN or infinite can reach the weights."""
        if model is not None:
            leave_out_extra_step(model, args, state)
        if model is not None and not args.fp16:
            for watch in self._watches:
                watch.check()
            for watch in self._watches:
                watch.check_factors_and_gradients()

    def on_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Allocate; the gradients of the step just taken are still there."""
        # A training that was resumed at its end does one step too many.
        if state.global_step >= state.max_steps:
            return
        self._warn_if_penalty_is_missing()
        for hook in self._hooks:
            hook.meter.end_step()
        # accelerate's optimizer says so where float16's loss scaler has found an overflow.
        skipped = bool(getattr(kwargs.get("optimizer"), "step_was_skipped", False))
        for allocator in self.allocators.values():
            allocator.step(skipped=skipped)

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
        added: dict[str, float] = {TASK_LOSS: loss - (penalty or 0.0)}
        if penalty is not None:
            added[PENALTY] = penalty
        for label, allocator in self.allocators.items():
            suffix = self._suffix(label)
            added[f"{BUDGET}{suffix}"] = allocator.budget
            added[f"{KEPT_VALUES}{suffix}"] = allocator.kept
            if allocator.plan.unit == "parameters":
                added[f"{KEPT_PARAMETERS}{suffix}"] = allocator.spent
        add_to_log(logs, state, added)

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        """Drop what was pruned, once the schedule is over; warn if the target is not reached."""
        for watch in self._watches:
            watch.remove()
        for handle in self._outer_handles:
            handle.remove()
        if model is None:
            return
        for label, allocator in self.allocators.items():
            if allocator.config.prunes:
                self._check_target(label, allocator, args, state)
                is_settled = allocator.completed_steps >= allocator.plan.last_change
                if allocator.finished:
                    self._compact(self._adapters[label], kwargs.get("optimizer"))
                elif is_settled and allocator.spent <= allocator.plan.target:
                    # It is saved compact, and this trainer's optimizer can still train it.
                    allocator.mark_finished()

    def _compact(self, adapter: PlacedAdapter[Lora2Config], optimizer: Any) -> None:
        before = {id(parameter) for parameter in adapter.module.parameters()}
        compact_adapter(adapter.module, adapter.name)
        if any(id(parameter) not in before for parameter in adapter.module.parameters()):
            self._outdated_optimizer = optimizer

    def _check_target(
        self, label: str, allocator: RankAllocator, args: TrainingArguments, state: TrainerState
    ) -> None:
        target = allocator.plan.target
        if has_loaded_best_model(args, state):
            pruned_to = allocator.kept
            allocator.read_kept()
            if allocator.kept != pruned_to:
                log_of_best_model(state, {f"{KEPT_VALUES}{self._suffix(label)}": allocator.kept})
            if allocator.spent > target:
                warnings.warn(
                    f"load_best_model_at_end has loaded the checkpoint of step "
                    f"{state.best_global_step}, in which adapter {label!r} has {allocator.spent} "
                    f"{allocator.plan.unit_in_words} and not its target of {target}: that model is "
                    "kept as it was measured. "
                    + advice_on_best_model(args, state, allocator.plan.last_change),
                    stacklevel=2,
                )
        elif allocator.spent > target:
            warnings.warn(
                f"The training ended at step {state.global_step} of {state.max_steps}, before "
                f"adapter {label!r} reached its target: it keeps {allocator.spent} "
                f"{allocator.plan.unit_in_words} and not {target}. Resume from its last checkpoint "
                "to reach it.",
                stacklevel=2,
            )

    def _warn_if_penalty_is_missing(self) -> None:
        """Once, at the first optimizer step: a loss that the trainer computes does not have it."""
        seen = any(hook.meter.has_added or hook.was_asked for hook in self._hooks)
        if self._has_penalty() and not seen and not self._was_penalty_checked:
            warnings.warn(
                "orthogonality='penalty': the penalty has joined no loss, because the model "
                "returns none in its outputs. Add lora2.weighted_penalty(model) to the loss that "
                "you compute, or use orthogonality='exact'.",
                stacklevel=2,
            )
        self._was_penalty_checked = True

    def _has_penalty(self) -> bool:
        return any(has_penalty(adapter.config) for adapter in self._adapters.values())

    def _suffix(self, label: str) -> str:
        return f"/{label}" if len(self.allocators) > 1 else ""

    def _logged_penalty(self, args: TrainingArguments) -> float | None:
        """What the penalties contribute to the loss that the trainer logs."""
        processes = args.world_size if args.average_tokens_across_devices else 1
        means = [
            # Where the losses are added up, each process's is multiplied by their number.
            mean * (processes if hook.meter.losses_are_summed else 1)
            for hook in self._hooks
            if (mean := hook.meter.take_mean()) is not None
        ]
        return sum(means) if means else None

    def _restore(self, state: TrainerState) -> None:
        stored = state.stateful_callbacks.get(type(self).__name__) or []
        entries = stored if isinstance(stored, list) else [stored]
        # Of several callbacks, each has an entry, and those from before the training are empty.
        states = [entry.get("attributes", {}).get("saved_allocators") for entry in entries]
        saved = next(filter(None, reversed(states)), self.saved_allocators)
        for name, allocator in self.allocators.items():
            if name not in saved:
                raise UserError(
                    f"The checkpoint at step {state.global_step} holds no allocator state of "
                    f"adapter {name!r}, so pruning cannot go on: resume from a checkpoint that "
                    "was made with Lora2Callback, or start over."
                )
            allocator.load_state_dict(load_safetensors(base64.b64decode(saved[name])))
            if allocator.completed_steps != state.global_step:
                logger.warning(
                    "The allocator had done %d steps and the trainer %d.",
                    allocator.completed_steps,
                    state.global_step,
                )
