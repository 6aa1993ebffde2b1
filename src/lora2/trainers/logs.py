"""What our callbacks add to the trainer's training logs, and its names for those who read them."""

import math
from collections.abc import Mapping
from typing import Any

from transformers import TrainerState, TrainingArguments

TASK_LOSS = "task_loss"
PENALTY = "penalty"
BUDGET = "budget"
KEPT_VALUES = "kept_singular_values"
KEPT_PARAMETERS = "kept_parameters"
"""What is kept in the unit of a budget in parameters; there is none of another budget."""


def add_to_log(logs: dict[str, Any], state: TrainerState, added: Mapping[str, Any]) -> None:
    """Add entries to the log that `on_log` was given, for what is shown and what is kept of it."""
    logs |= added
    # The trainer appends its entry before it asks the callbacks.
    if state.log_history:
        state.log_history[-1] |= added


def last_logged(state: TrainerState, name: str) -> Any:
    """Return the value that was logged last under a name, or None."""
    return next((entry[name] for entry in reversed(state.log_history) if name in entry), None)


def log_of_best_model(state: TrainerState, added: Mapping[str, Any]) -> None:
    """Append an entry about the best model, which the trainer has loaded after its last log."""
    entry: dict[str, Any] = {"epoch": state.epoch, "step": state.global_step}
    state.log_history.append({**entry, "best_step": state.best_global_step, **added})


def has_loaded_best_model(args: TrainingArguments, state: TrainerState) -> bool:
    """Return whether the trainer has put its best checkpoint into the model; at `on_train_end`."""
    return args.load_best_model_at_end and state.best_model_checkpoint is not None


def advice_on_best_model(args: TrainingArguments, state: TrainerState, first_step: int) -> str:
    """Return what to set so that the best model is none of before a step."""
    delay, unit = first_step, "steps"
    if args.eval_strategy == "epoch":
        delay, unit = math.ceil(first_step * state.num_train_epochs / state.max_steps), "epochs"
    return (
        f"Set eval_delay={delay} ({unit}) to choose among the checkpoints from then on, or "
        "load_best_model_at_end=False to keep the last model."
    )
