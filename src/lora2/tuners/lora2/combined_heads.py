"""What a sum of adapters trains whole: modules_to_save, and rows of tokens.

These are weights and not changes, so that they cannot be added up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from peft.utils import ModulesToSaveWrapper
from torch import Tensor

from lora2.errors import NumericalError, UserError
from lora2.tuners.base.model.adapted_model import AdaptedModel
from lora2.tuners.base.modules_to_save import modules_trained_whole
from lora2.tuners.base.names.peft_names import Indices

Heads = Literal["refuse", "average", "first"]
# Σ weights / Σ |weights|: below this share, the heads would consist of rounding errors.
_SMALLEST_SUM = 1e-6


def has_mean(weights: Sequence[float]) -> bool:
    """Return whether heads of these weights have a mean: the weights' sum is not about 0."""
    return abs(sum(weights)) > _SMALLEST_SUM * sum(map(abs, weights))


def names_of_heads(tuner: AdaptedModel, adapters: list[str]) -> list[str] | None:
    """Return the modules_to_save of the sum, which are those of all adapters."""
    names = {n for a in adapters for n in tuner.peft_config[a].modules_to_save or []}
    return sorted(names) or None


def head_states(
    tuner: AdaptedModel, adapters: list[str], weights: list[float], heads: Heads
) -> dict[ModulesToSaveWrapper, dict[str, Tensor]]:
    """Return what the sum's modules_to_save hold, by PEFT's wrapper of each.

    Raises:
        UserError: several adapters have the same module and `heads` is "refuse", or it is "average"
            and the sum of their weights is 0.
        NumericalError: NaN or infinity in the mean.
    """
    states = {}
    for name, wrapper in modules_trained_whole(tuner.model):
        owners: dict[str, float] = {}
        for adapter, weight in zip(adapters, weights, strict=True):
            if adapter in wrapper.modules_to_save:
                # One that is named twice has both weights.
                owners[adapter] = owners.get(adapter, 0.0) + weight
        if len(owners) > 1 and heads == "refuse":
            raise UserError(
                f"adapters={list(owners)} each bring their own {name!r} (modules_to_save), which "
                "is not a change that could be added up: combine adapters of which one at most has "
                "it, or give heads='average' or heads='first'."
            )
        if owners:
            states[wrapper] = _joint_state(wrapper, owners, heads)
    return states


def owner_of_rows(tuner: AdaptedModel, adapters: list[str], heads: Heads) -> str | None:
    """Return the adapter whose rows of tokens the sum takes over, if any has some.

    Raises:
        UserError: several adapters have some, and `heads` is not "first".
    """
    owners = [name for name in adapters if tuner.peft_config[name].trainable_token_indices]
    if len(owners) > 1 and heads != "first":
        raise UserError(
            f"adapters={owners} each bring rows of tokens of their own (trainable_token_indices), "
            "which are no changes that could be added up: combine adapters of which one at most "
            "has some, or give heads='first'."
        )
    return owners[0] if owners else None


def indices_of(tuner: AdaptedModel, adapter: str | None) -> Indices | None:
    """Return the tokens whose rows an adapter has."""
    if adapter is None:
        return None
    found: Indices | None = tuner.peft_config[adapter].trainable_token_indices
    return found


def _joint_state(
    wrapper: ModulesToSaveWrapper, owners: dict[str, float], heads: Heads
) -> dict[str, Tensor]:
    found = [wrapper.modules_to_save[name].state_dict() for name in owners]
    if len(found) == 1 or heads == "first":
        return found[0]
    if not has_mean(list(owners.values())):
        raise UserError(
            f"weights={list(owners.values())}: their sum is 0, so heads have no mean; give "
            "heads='first' to keep those of the first adapter."
        )
    total = sum(owners.values())
    joint = dict(found[0])
    for name, value in joint.items():
        if value.is_floating_point():
            parts = [
                weight / total * state[name].double()
                for weight, state in zip(owners.values(), found, strict=True)
            ]
            joint[name] = torch.stack(parts).sum(0).to(value.dtype)
            if not joint[name].isfinite().all():
                raise NumericalError(
                    f"{name} of the heads' mean is NaN or infinite; train the runs again, or give "
                    "other weights."
                )
    return joint
