"""Checks that a run can be made where tensors are split over processes."""

from __future__ import annotations

from lora2.errors import UserError
from lora2.training.methods.method import Method
from lora2.training.options.arguments import RunSettings
from lora2.training.options.sharding import FSDP, checkpointing_by_fsdp, sharding_of


def check_may_shard(settings: RunSettings, method: Method) -> None:
    """Check that the run can be made where tensors are split over processes, if they are to be.

    Raises:
        UserError: it cannot.
    """
    for engine, given in sharding_of(settings).items():
        if not method.shards:
            raise UserError(
                f"{given}: {method.label} cannot be trained where tensors are split over "
                "processes; leave it out, or take --method lora2."
            )
        if settings.adapter["init_weights"] == "gradient":
            raise UserError(
                "init_weights=gradient: the start from gradients is not made where tensors are "
                f"split over processes, as {given} does; leave one of them out."
            )
        wraps = checkpointing_by_fsdp(settings) if engine == FSDP else None
        if wraps is not None and not method.saves_wrapped:
            raise UserError(
                f"{wraps}: the modules that it puts around blocks are in the names by which "
                f"{method.label} is saved, so its files would be empty; leave it out, and write "
                "--activation_checkpointing true."
            )
