"""The budget schedule of one training in whole optimizer steps, checked against their number."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

from lora2.errors import UserError
from lora2.mathematics.schedule import BudgetShape, budget_at
from lora2.tuners.lora2.config import BudgetUnit, Lora2Config
from lora2.tuners.lora2.matrix_size import MatrixSize


@dataclass(frozen=True)
class BudgetPlan:
    """A budget schedule in whole optimizer steps, checked against their number.

    Attributes:
        initial: the budget before anything is pruned, in singular values or parameters.
        target: the budget at the end, likewise.
        unit: what the two are counted in.
    """

    total_steps: int
    warmup_steps: int
    final_steps: int
    interval: int
    initial: int
    target: int
    shape: BudgetShape
    unit: BudgetUnit = "values"

    @property
    def unit_in_words(self) -> str:
        """What the budget counts, as messages say it."""
        return "singular values" if self.unit == "values" else "parameters"

    def at(self, step: int) -> int:
        """Budget once `step` optimizer steps are done."""
        return budget_at(
            step,
            total_steps=self.total_steps,
            initial=self.initial,
            target=self.target,
            warmup_steps=self.warmup_steps,
            final_steps=self.final_steps,
            interval=self.interval,
            shape=self.shape,
        )

    @property
    def prunes(self) -> bool:
        """Whether anything is pruned."""
        return self.target < self.initial

    @property
    def last_change(self) -> int:
        """The step after which the kept set stays as it is."""
        return self.total_steps - self.final_steps


def plan_budget(
    config: Lora2Config, matrices: Sequence[MatrixSize], total_steps: int
) -> BudgetPlan:
    """Return the plan for the budget of these matrices.

    Raises:
        UserError: the schedule does not fit into `total_steps`, or there is no step.
    """
    tinit, tfinal = config.window
    warmup, final = steps_of(tinit, total_steps), steps_of(tfinal, total_steps)
    if tinit < 1 and tfinal < 1:
        # Fractions leave a part of the steps to prune in; of few steps, rounding may not take it.
        final = max(0, min(final, total_steps - 1))
        warmup = max(0, min(warmup, total_steps - final - 1))
    initial, target = config.initial_budget(matrices), config.target_budget(matrices)
    if target < initial and not total_steps:
        raise UserError(
            "total_steps=0 leaves no step in which to prune: write the optimizer steps of the "
            "whole training, at least 1."
        )
    if target < initial and warmup + final >= total_steps:
        raise UserError(
            f"tinit={tinit} and tfinal={tfinal} take {warmup} + {final} of the "
            f"{total_steps} optimizer steps and leave none in which to prune: make them smaller, "
            "or train longer."
        )
    return BudgetPlan(
        total_steps=total_steps,
        warmup_steps=warmup,
        final_steps=final,
        interval=max(1, steps_of(config.deltaT, total_steps)),
        initial=initial,
        target=target,
        shape=config.budget_schedule,
        unit=config.budget_unit,
    )


def steps_of(steps_or_fraction: float, total_steps: int) -> int:
    """Return a number of steps that may be written as a fraction of all of them."""
    if steps_or_fraction >= 1:
        return int(steps_or_fraction)
    return round(steps_or_fraction * total_steps)


def checked_total(total_steps: int) -> int:
    """Return a number of optimizer steps as an int.

    Raises:
        UserError: it is no whole number, or negative.
    """
    try:
        total = -1 if isinstance(total_steps, bool) else operator.index(total_steps)
    except TypeError:
        total = -1
    if total < 0:
        raise UserError(
            f"total_steps={total_steps!r} must be a whole number: the optimizer steps of the whole "
            "training."
        )
    return total
