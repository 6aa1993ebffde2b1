"""Whether a training has pruned an adapter to its target, or what was kept instead of it."""

from __future__ import annotations

import warnings

from transformers import TrainerState, TrainingArguments

from lora2.trainers.logs import advice_on_best_model, has_loaded_best_model, log_of_best_model
from lora2.tuners.lora2.allocation.allocator import RankAllocator


def check_target(
    label: str,
    allocator: RankAllocator,
    args: TrainingArguments,
    state: TrainerState,
    log_name: str,
) -> None:
    """Warn where an adapter keeps more than its target at the end of a training.

    Where the best model was loaded, the allocator reads what that one keeps, which is logged.

    label: the adapter's name.
    log_name: the name under which its number of kept singular values is logged.
    """
    target = allocator.plan.target
    if has_loaded_best_model(args, state):
        pruned_to = allocator.kept
        allocator.read_kept()
        if allocator.kept != pruned_to:
            log_of_best_model(state, {log_name: allocator.kept})
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
