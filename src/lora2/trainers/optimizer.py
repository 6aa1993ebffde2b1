"""A trainer that trains again keeps its optimizer, which may be of parameters that are gone."""

from typing import Any

from lora2.errors import UserError


def check_optimizer_is_new(optimizer: Any, outdated: Any) -> None:
    """Check that a trainer's optimizer is not one made before an adapter was pruned for good.

    Raises:
        UserError: it is, and would never move the new, smaller parameters.
    """
    if optimizer is not None and optimizer is outdated:
        raise UserError(
            "The optimizer of this trainer was made before the adapter was pruned and does not "
            "know its new parameters: make a new Trainer to train on."
        )
