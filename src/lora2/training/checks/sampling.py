"""Checks that the rows of a run can come in the order that is asked for."""

from __future__ import annotations

from lora2.errors import UserError
from lora2.training.objectives.objective import Objective
from lora2.training.options.arguments import RunSettings

_BY_LENGTH = ("group_by_length", "batch_rebalance")


def check_sampling(settings: RunSettings, objective: Objective) -> None:
    """Check that rows have a length if they are to be sorted by it.

    Raises:
        UserError: they have none.
    """
    strategy = settings.training.get("train_sampling_strategy")
    if strategy in _BY_LENGTH and objective.no_length is not None:
        raise UserError(f"train_sampling_strategy={strategy}: {objective.no_length}; leave it out.")
