"""Prunes singular values by importance to a global budget (section 3.3 and Algorithm 1)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lora2.errors import UserError
from lora2.tuners.base.distributed.ranks import agree_on
from lora2.tuners.base.layers.experts import name_in_config
from lora2.tuners.base.model.same_adapter import SameAdapter
from lora2.tuners.base.model.use_watch import UseWatch
from lora2.tuners.lora2.allocation.accumulation import AccumulationWatch
from lora2.tuners.lora2.allocation.allocator_state import check_fits, check_is_state
from lora2.tuners.lora2.allocation.budget import checked_total, plan_budget
from lora2.tuners.lora2.allocation.frozen_matrices import FrozenValues
from lora2.tuners.lora2.allocation.kept_set import KeptSet
from lora2.tuners.lora2.allocation.model_importance import ModelImportance
from lora2.tuners.lora2.allocation.shared_budget import layers_and_config
from lora2.tuners.lora2.config import Lora2Config
from lora2.tuners.lora2.layer import lora2_layers


class RankAllocator:
    """Keeps the most important singular values of one adapter, over all its matrices.

    Call `step()` once after every `optimizer.step()`, before `zero_grad()`. Pruned values are
    exactly zero after each step; until the last change of the kept set one of them comes back
    when it has become important again. Inside accelerate's `accumulate()`, a call at a micro-batch
    after which the optimizer does not step does not count.

    Args:
        model: any model with LoRA² layers, also inside modules of your own and wrappers such as
            DistributedDataParallel. Where several PEFT models inside it train an adapter of this
            name, they share one budget.
        total_steps: optimizer steps of the whole training (not micro-batches).
        adapter_name: the adapter to prune.
        config: its config; taken from the `peft_config` of its PEFT model by default.
        resumable: save pruned values too, even once the schedule is over (trainer checkpoints,
            whose optimizer state has their size).

    Raises:
        UserError: the model has no such adapter, adapters of this name have different schedules,
            the config is no Lora2Config, or the schedule does not fit `total_steps`.
    """

    def __init__(
        self,
        model: nn.Module,
        total_steps: int,
        adapter_name: str = "default",
        *,
        config: Lora2Config | None = None,
        resumable: bool = False,
    ) -> None:
        if config is not None and not isinstance(config, Lora2Config):
            raise UserError(
                f"config: a {type(config).__name__} says nothing of a budget; give the Lora2Config "
                "of the adapter, or leave it out."
            )
        self.adapter_name = adapter_name
        self._layers = lora2_layers(model, adapter_name)
        if config is None or not self._layers:
            self._layers, config = layers_and_config(model, adapter_name)
        self.config: Lora2Config = config
        self._adapter = SameAdapter(self._layers, adapter_name, "RankAllocator")
        self._sizes = [layer.sizes_of(adapter_name) for layer in self._layers.values()]
        self._kept = KeptSet(self._layers, adapter_name, self.config.budget_unit)
        self.plan = plan_budget(self.config, self._kept.matrices, checked_total(total_steps))
        self.resumable = resumable
        self.completed_steps = 0
        # After a change of the total steps the kept set is only made smaller, never larger again.
        self._ceiling = self.plan.initial
        self._is_overdue = False
        self._has_scored = False
        self._accumulation = AccumulationWatch(self._kept.singular_values)
        self._use = UseWatch(self._layers, adapter_name, self.plan.total_steps)
        self._importance = ModelImportance(self._layers.values(), adapter_name, self.config)
        if self.plan.prunes:
            self._importance.begin()
        for layer in self._layers.values():
            layer.release_pruned(adapter_name)
            state = layer.lora2_states[adapter_name]
            state.is_allocated, state.is_finished = True, False

    @property
    def budget(self) -> int:
        """What may be kept at the present step over all matrices, in the config's `budget_unit`."""
        return self._budget_at(self.completed_steps)

    @property
    def kept(self) -> int:
        """Singular values kept now, over all matrices."""
        return self._kept.count

    @property
    def spent(self) -> int:
        """What is kept now over all matrices, in the config's `budget_unit`."""
        return self._kept.spent

    @property
    def finished(self) -> bool:
        """Whether all steps of the schedule are done."""
        return self.completed_steps >= self.plan.total_steps

    def kept_by_module(self) -> dict[str, int]:
        """Singular values kept now, by module name."""
        return self._kept.by_module()

    @torch.no_grad()
    def step(self, *, skipped: bool = False) -> None:
        """Score, allocate if it is time, and set pruned values to zero.

        skipped: whether the optimizer has left this step out, as with float16's loss scaler. Its
        gradients, which may still have the scale, are not scored; it counts in the schedule.

        Raises:
            UserError: no adapter parameter has a gradient, all `total_steps` are done, the adapter
                was deleted, cut or compacted since the last step, or the processes of one training
                do not agree on the values to keep.
        """
        self._adapter.check()
        if self._accumulation.is_micro_batch():
            return
        if self.finished:
            raise UserError(
                f"total_steps={self.plan.total_steps}: step() of adapter {self.adapter_name!r} was "
                "called once more than that; give the number of optimizer steps of the whole "
                "training."
            )
        step = self.completed_steps + 1
        self._check_sizes()
        if self.plan.prunes:
            if step <= self.plan.last_change or self._is_overdue:
                if not skipped:
                    self._importance.update()
                    self._has_scored = True
                if self._has_scored:
                    self._allocate(step)
                else:
                    # Nothing says yet what is important.
                    self._is_overdue = True
            self._kept.apply()
        self.completed_steps = step
        self._use.end_step()
        self._importance.end_step(is_last=self.finished)
        self._accumulation.end_step()
        self._hold_if_finished()

    def _hold_if_finished(self) -> None:
        """Once the schedule is over, nobody sets to zero what an optimizer still moves."""
        if self.finished and self.resumable:
            self.hold_pruned()
        elif self.finished:
            self.mark_finished()

    def mark_finished(self) -> None:
        """Save the adapter without its pruned values from now on, and compute without them."""
        self.hold_pruned()
        for layer in self._layers.values():
            layer.lora2_states[self.adapter_name].is_finished = True

    def hold_pruned(self) -> None:
        """Let pruned values count as zero from now on, whatever an optimizer makes of them."""
        self._adapter.check()
        self._kept.hold()

    def state_dict(self) -> dict[str, Tensor]:
        """Return averages, mask and step; all that `load_state_dict` needs."""
        return {
            "completed_steps": torch.tensor(self.completed_steps),
            "total_steps": torch.tensor(self.plan.total_steps),
            "most": torch.tensor(self._ceiling),
            "mask": self._kept.mask.clone(),
            **self._importance.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a saved state.

        With another `total_steps` than the state was made with, the schedule follows the new one,
        and a warning says so: what the new schedule has pruned by this step is pruned at the next
        step, and what has been pruned before the time stays pruned.

        Raises:
            UserError: it is no state, or one of another adapter, or no step is left in which to
                reach the target, or the adapter was deleted.
        """
        self._adapter.check()
        check_is_state(state)
        own = self.state_dict()
        # The states of older versions do not have them.
        is_older = "most" not in state
        state = {"total_steps": own["total_steps"], "most": own["most"], **state}
        check_fits(state, own, self.adapter_name, self.plan.initial)
        step, saved_total = int(state["completed_steps"]), int(state["total_steps"])
        mask = state["mask"].to(self._kept.device)
        kept = self._kept.spent_on(mask)
        # A new schedule makes the present kept set the start of what is left of it.
        is_new_schedule = saved_total != self.plan.total_steps
        reached = max(kept, self.plan.target)
        ceiling = reached if is_older or is_new_schedule else int(state["most"])
        budget = min(self.plan.at(step), ceiling)
        is_overdue = kept > budget or self._kept.leaves_room(mask, budget)
        if is_overdue and step >= self.plan.total_steps:
            raise self._no_step_left(step, kept)
        self.completed_steps, self._has_scored = step, step > 0
        self._kept.mask = mask
        self._ceiling, self._is_overdue = ceiling, is_overdue
        self._importance.load_state_dict(state)
        for layer in self._layers.values():
            layer.release_pruned(self.adapter_name)
            layer.lora2_states[self.adapter_name].is_finished = False
        self._hold_if_finished()
        if is_new_schedule and self.plan.prunes:
            self._warn_of_new_schedule(saved_total)

    def read_kept(self) -> None:
        """Take as kept what is not zero in the model, into which other weights were loaded."""
        self._adapter.check()
        self._kept.read()

    def _check_sizes(self) -> None:
        if self._sizes != [layer.sizes_of(self.adapter_name) for layer in self._layers.values()]:
            raise UserError(
                f"Adapter {self.adapter_name!r} has been cut or compacted since this RankAllocator "
                "was made; make a new one for what is left."
            )

    def _check_frozen(self, frozen: FrozenValues) -> None:
        """Check that frozen matrices leave a part of the target to those that are trained.

        Raises:
            UserError: they do not.
        """
        spent = self._kept.spent_on(frozen.fixed)
        if spent >= self.plan.target:
            fixed = self._kept.by_module(frozen.fixed)
            largest = max(fixed, key=fixed.__getitem__)
            raise UserError(
                f"target_r={self.config.target_r}: matrices of adapter {self.adapter_name!r} that "
                f"are frozen, such as {name_in_config(largest)}, have {spent} "
                f"{self.plan.unit_in_words}, and {self.plan.target} are to be left: set "
                "requires_grad of lora2_lambda, raise target_r, or name frozen modules in "
                "exclude_modules."
            )

    def _allocate(self, step: int) -> None:
        plan, budget = self.plan, self._budget_at(step)
        is_due = (
            self._is_overdue
            or (step - plan.warmup_steps) % plan.interval == 0
            or budget != self._budget_at(step - 1)
        )
        if step <= plan.warmup_steps or not is_due:
            return
        self._is_overdue = False
        frozen = self._kept.frozen()
        if frozen is not None:
            self._check_frozen(frozen)
        self._kept.choose(self._importance.of_all(self._kept.device), budget, frozen)
        if not agree_on(self._kept.mask):
            raise UserError(
                f"The processes of this training do not keep the same singular values of adapter "
                f"{self.adapter_name!r} at step {step}: their gradients or weights differ. Let "
                "DistributedDataParallel or fully_shard reduce the gradients, start all processes "
                "from the same weights, and call step() after the same optimizer steps in all."
            )

    def _budget_at(self, step: int) -> int:
        return min(self.plan.at(step), self._ceiling)

    def _no_step_left(self, step: int, kept: int) -> UserError:
        plan = self.plan
        return UserError(
            f"total_steps={plan.total_steps}: the state of adapter {self.adapter_name!r} was "
            f"saved after {step} steps with {kept} {plan.unit_in_words}, so no step is left in "
            f"which to reach its target of {plan.target}. Train for more steps, or resume with the "
            "batch size, gradient accumulation and processes of before."
        )

    def _warn_of_new_schedule(self, saved_total: int) -> None:
        plan, kept, step = self.plan, self.spent, self.completed_steps
        is_reached = kept <= plan.target and not self._is_overdue
        reached = step if is_reached else max(step + self._is_overdue, plan.last_change)
        warnings.warn(
            f"Adapter {self.adapter_name!r} was saved at step {step} of {saved_total}, and this "
            f"training has {plan.total_steps} steps in all. Its budget follows the new schedule: "
            f"{kept} {plan.unit_in_words} are kept now, and the target of {plan.target} from step "
            f"{reached} on.",
            stacklevel=3,
        )
