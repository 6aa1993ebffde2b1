"""What our callbacks add to the trainer's training logs."""

from collections.abc import Mapping
from typing import Any

from transformers import TrainerState


def add_to_log(logs: dict[str, Any], state: TrainerState, added: Mapping[str, Any]) -> None:
    """Add entries to the log that `on_log` was given, for what is shown and what is kept of it."""
    logs |= added
    # The trainer appends its entry before it asks the callbacks.
    if state.log_history:
        state.log_history[-1] |= added
