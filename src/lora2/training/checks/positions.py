"""Checks that the texts of a run fit into the positions of its model."""

from __future__ import annotations

from lora2.data.tokenization.texts import check_reads
from lora2.errors import UserError
from lora2.training.base_models.models import BaseModel
from lora2.training.base_models.positions import longest_text, positions_of
from lora2.training.methods.method import Method
from lora2.training.objectives.objective import Objective
from lora2.training.objectives.output import TEXTS
from lora2.training.options.arguments import RunSettings


def check_positions(
    method: Method, objective: Objective, settings: RunSettings, base: BaseModel
) -> None:
    """Check that a text of `max_length` tokens fits after what a method puts in front of it.

    Raises:
        UserError: it does not.
    """
    length = settings.data.max_length
    # Rotated positions have no end, so that a model may label texts that are longer than its
    # configuration says; one that writes is held to its configuration.
    writes = objective.output is TEXTS
    check_reads(length, (longest_text if writes else positions_of)(base.model))
    if method.tokens_in_front is None:
        return
    in_front = method.tokens_in_front(settings.adapter)
    longest = longest_text(base.model)
    if longest is not None and in_front + length > longest:
        raise UserError(
            f"virtual_tokens={in_front} and max_length={length} are more than the {longest} tokens "
            "that the model reads; lower one of them."
        )
