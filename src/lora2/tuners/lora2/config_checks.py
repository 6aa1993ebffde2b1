"""Checks of the fields that only the config of LoRA² has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lora2.errors import UserError
from lora2.support.ranges import COUNT, check_number
from lora2.tuners.base.config.field_checks import check_float32, check_regular_expression


def checked_parameters(names: Any, *, is_saved: bool) -> list[str] | None:
    """Return `target_parameters` as a list.

    is_saved: whether the config is of a saved adapter. It has its parameters; older versions had
        none.

    Raises:
        UserError: it is no list of names.
    """
    if names is None:
        return [] if is_saved else None
    if isinstance(names, tuple | set):
        names = sorted(names)
    if not (isinstance(names, list) and all(isinstance(name, str) and name for name in names)):
        raise UserError(
            f"target_parameters={names!r} must be a list of names of parameters, such as "
            "['experts.gate_up_proj', 'experts.down_proj']."
        )
    return names


def check_scales(
    lora_alpha: float,
    alpha_pattern: Mapping[str, float],
    orth_reg_weight: float,
    init_std: float,
) -> None:
    """Check the numbers that tensors are multiplied with.

    Raises:
        UserError: one of them has a wrong sign, or float32 cannot hold it.
    """
    check_float32("lora_alpha", lora_alpha, default=4)
    for pattern, alpha in alpha_pattern.items():
        check_regular_expression("alpha_pattern", pattern)
        check_float32(f"alpha_pattern[{pattern!r}]", alpha, default=4)
    if orth_reg_weight < 0:
        raise UserError(f"orth_reg_weight={orth_reg_weight} must not be negative.")
    check_float32("orth_reg_weight", orth_reg_weight, default=0.1, may_be_zero=True)
    if init_std <= 0:
        raise UserError(f"init_std={init_std} must be above 0; the paper's is 0.02.")
    check_float32("init_std", init_std, default=0.02)


def check_width_for_parameters(k: int, init_r: int) -> None:
    """Check the sizes of a budget that counts parameters.

    Raises:
        UserError: a matrix has more singular values than its change can have rank.
    """
    if init_r > k:
        raise UserError(
            f"budget_unit='parameters' needs a k of at least init_r={init_r}, and k is "
            f"{k}: a matrix with more values than k is no smaller without some of them. "
            f"Write init_r={k}, or budget_unit='values'."
        )


def check_target(target_r: float, init_r: int) -> None:
    """Check the number of singular values that pruning leaves.

    Raises:
        UserError: nothing would be left, or more than there are at the start.
    """
    if target_r <= 0:
        raise UserError(
            f"target_r={target_r} would leave nothing: write the average number of "
            "singular values a matrix keeps, such as 1 or 0.5, or None to prune none."
        )
    if target_r > init_r:
        raise UserError(
            f"target_r={target_r} is above init_r={init_r}: pruning only removes, "
            f"so write target_r below {init_r} (equal means no pruning), or raise init_r."
        )


def check_schedule(tinit: float, tfinal: float, deltaT: float, total_step: int | None) -> None:
    """Check the numbers that say in which steps singular values are pruned.

    Raises:
        UserError: one of them is no number of steps, or they leave no step in which to prune.
    """
    for name, value in (("tinit", tinit), ("tfinal", tfinal), ("deltaT", deltaT)):
        if value < 0 or (value >= 1 and value != int(value)):
            raise UserError(
                f"{name}={value} is neither a number of steps nor a fraction: write a whole "
                "number, or a fraction of all steps below 1."
            )
    if total_step is not None:
        check_number("total_step", total_step, COUNT)
    if deltaT == 0:
        raise UserError("deltaT=0 would never allocate: write 1 to allocate at every step.")
    if tinit < 1 and tfinal < 1 and tinit + tfinal >= 1:
        raise UserError(
            f"tinit={tinit} and tfinal={tfinal} leave no steps in which to prune: "
            "their sum must be below 1."
        )
