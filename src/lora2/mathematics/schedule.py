"""The budget b(t): how many singular values are kept, over all matrices (Algorithm 1)."""

from typing import Literal, get_args

BudgetShape = Literal["cubic", "linear", "constant"]

BUDGET_SHAPES: tuple[str, ...] = get_args(BudgetShape)


def budget_at(
    step: int,
    *,
    total_steps: int,
    initial: int,
    target: int,
    warmup_steps: int,
    final_steps: int,
    interval: int = 1,
    shape: BudgetShape = "cubic",
) -> int:
    """Return b(t) for `step` optimizer steps done, 0 ≤ step ≤ total_steps.

    b(t) is `initial` until t_init = warmup_steps; then, every ΔT = interval steps, it becomes
    b_T + (b_0 − b_T)(1 − (t − t_init)/(T − t_init − t_final))³, rounded down; for the last
    t_final = final_steps steps it is `target`. "linear" has the power 1 instead of 3; "constant"
    goes to the target at once. Computed in whole numbers, so no step depends on rounding.
    """
    last_change = total_steps - final_steps
    if step >= last_change:
        return target
    if step <= warmup_steps:
        return initial
    if shape == "constant":
        return target
    latest_change = step - (step - warmup_steps) % interval
    power = {"cubic": 3, "linear": 1}[shape]
    remaining = last_change - latest_change
    span = last_change - warmup_steps
    return target + (initial - target) * remaining**power // span**power
