"""LoRA² in transformers' Trainer and everything derived from it."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from lora2.trainers.divergence import GradientWatch, check_loss
from lora2.trainers.first_batches import shuffled_batches
from lora2.trainers.logs import (
    BUDGET,
    KEPT_PARAMETERS,
    KEPT_VALUES,
    PENALTY,
    TASK_LOSS,
    add_to_log,
)
from lora2.trainers.loraplus import warn_of_raised_singular_values
from lora2.trainers.optimizer import check_has_one_set_of_weights
from lora2.trainers.penalty_watch import PenaltyWatch
from lora2.trainers.pruning_callback import PruningCallback
from lora2.trainers.reached_target import check_target
from lora2.trainers.saved_allocators import NAME, encoded, restore
from lora2.trainers.trl import fill_reference, keep_small_factors_precise
from lora2.tuners.base.model.placement import PlacedAdapter, trained_adapters
from lora2.tuners.lora2.allocation.allocator import RankAllocator
from lora2.tuners.lora2.config import Lora2Config
from lora2.tuners.lora2.gradient_start import has_changed, start_from_gradients
from lora2.tuners.lora2.saving import compact_adapter


class Lora2Callback(PruningCallback[Lora2Config], ExportableState):
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

    config_type = Lora2Config

    def __init__(self) -> None:
        super().__init__()
        self.allocators: dict[str, RankAllocator] = {}
        self._watch: GradientWatch | None = None
        self._penalty: PenaltyWatch | None = None
        self._has_prepared = False
        # What transformers restores of `state`.
        self.saved_allocators: dict[str, str] = {}

    def state(self) -> dict[str, Any]:
        """Return what the trainer writes into each checkpoint's `trainer_state.json`."""
        return {"args": {}, "attributes": {NAME: encoded(self.allocators)}}

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
            for adapter in trained_adapters(model, Lora2Config):
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
        optimizer = kwargs.get("optimizer")
        self._find_adapters(model, optimizer)
        check_has_one_set_of_weights(optimizer, self._adapters.values())
        warn_of_raised_singular_values(model, optimizer)
        self.allocators = {
            label: RankAllocator(
                each.module, state.max_steps, each.name, config=each.config, resumable=True
            )
            for label, each in self._adapters.items()
        }
        if state.global_step > 0:
            restore(self.allocators, state, type(self).__name__, self.saved_allocators)
        else:
            # A callback that was added later has not seen the trainer begin.
            if not self._has_prepared:
                self.on_init_end(args, state, control, model)
            self._start_from_gradients(args, kwargs.get("train_dataloader"))
        self._penalty = PenaltyWatch(model, self._adapters.values())
        # float16's loss scaler expects overflows and skips those steps by itself.
        scales = args.mixed_precision == "fp16"
        self._watch = None if scales else GradientWatch(self._adapters.values())

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        """Stop before a gradient that is NaN or infinite can reach the weights."""
        super().on_pre_optimizer_step(args, state, control, model, **kwargs)
        if model is not None and self._watch is not None:
            self._watch.check()

    def _end_step(self, optimizer: Any) -> None:
        """Allocate; the gradients of the step just taken are still there."""
        if self._penalty is not None:
            self._penalty.end_step()
        # accelerate's optimizer says so where float16's loss scaler has found an overflow.
        skipped = bool(getattr(optimizer, "step_was_skipped", False))
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
        """Add the budget and what is kept of it, and the parts of a training loss, to the logs."""
        if logs is None or not self.allocators:
            return
        if any(name.startswith("eval_") for name in logs):
            add_to_log(logs, state, self._kept_now())
        if "loss" not in logs:
            return
        loss = float(logs["loss"])
        check_loss(loss, state.global_step)
        penalty = None if self._penalty is None else self._penalty.take_mean(args)
        added: dict[str, float] = {TASK_LOSS: loss - (penalty or 0.0)}
        if penalty is not None:
            added[PENALTY] = penalty
        add_to_log(logs, state, added | self._kept_now())

    def _kept_now(self) -> dict[str, float]:
        """Return the budget of each adapter after the step just taken, and what is kept of it."""
        numbers: dict[str, float] = {}
        for label, allocator in self.allocators.items():
            suffix = self._suffix(label)
            numbers[f"{BUDGET}{suffix}"] = allocator.budget
            numbers[f"{KEPT_VALUES}{suffix}"] = allocator.kept
            if allocator.plan.unit == "parameters":
                numbers[f"{KEPT_PARAMETERS}{suffix}"] = allocator.spent
        return numbers

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        """Drop what was pruned, once the schedule is over; warn if the target is not reached."""
        if self._watch is not None:
            self._watch.remove()
        if self._penalty is not None:
            self._penalty.remove()
        if model is None:
            return
        for label, allocator in self.allocators.items():
            if allocator.config.prunes:
                log_name = f"{KEPT_VALUES}{self._suffix(label)}"
                check_target(label, allocator, args, state, log_name)
                is_settled = allocator.completed_steps >= allocator.plan.last_change
                if allocator.finished:
                    self._compact(self._adapters[label], kwargs.get("optimizer"))
                elif is_settled and allocator.spent <= allocator.plan.target:
                    # It is saved compact, and this trainer's optimizer can still train it.
                    allocator.mark_finished()

    def _start_from_gradients(self, args: TrainingArguments, dataloader: Any) -> None:
        for each in self._adapters.values():
            if each.config.init_weights == "gradient" and not has_changed(each.module, each.name):
                start_from_gradients(each.module, shuffled_batches(dataloader, args), each.name)

    def _compact(self, adapter: PlacedAdapter[Lora2Config], optimizer: Any) -> None:
        before = {id(parameter) for parameter in adapter.module.parameters()}
        compact_adapter(adapter.module, adapter.name)
        if any(id(parameter) not in before for parameter in adapter.module.parameters()):
            self._outdated_optimizer = optimizer

    def _suffix(self, label: str) -> str:
        return f"/{label}" if len(self.allocators) > 1 else ""
