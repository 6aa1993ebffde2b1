"""Optimizers that are refused: of parameters that are gone, or with weights of their own."""

from collections.abc import Iterable
from typing import Any

from lora2.errors import UserError
from lora2.tuners.base.model.placement import PlacedAdapter
from lora2.tuners.lora2.config import Lora2Config


def check_has_one_set_of_weights(
    optimizer: Any, adapters: Iterable[PlacedAdapter[Lora2Config]]
) -> None:
    """Check that an optimizer does not bring back what is pruned.

    Raises:
        UserError: it keeps weights of its own, out of which it makes those of the model, as
            schedule-free ones do in each evaluation.
    """
    inner = getattr(optimizer, "optimizer", optimizer)
    if not (hasattr(inner, "train") and hasattr(inner, "eval")):
        return
    for adapter in adapters:
        if adapter.config.prunes:
            raise UserError(
                f"{type(inner).__name__} makes the weights of an evaluation out of weights of its "
                f"own, so that what is pruned of adapter {adapter.name!r} would come back: take "
                "another optimizer, such as optim='adamw_torch', or target_r=None, which prunes "
                "nothing."
            )


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
