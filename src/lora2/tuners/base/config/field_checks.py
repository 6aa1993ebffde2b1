"""Checks of one field of a config, which name the field and its value."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Any

import torch

from lora2.errors import UserError
from lora2.support.field_types import shortened
from lora2.support.ranges import SHARE, SIZE


def check_whole(name: str, value: Any, lowest: int = 1) -> None:
    """Check that a field is a whole number, and no larger than anything in memory.

    Raises:
        UserError: it is none, below `lowest`, or too large.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value < SIZE.below:
        most = f" and below {SIZE.below:,.0f}" if isinstance(value, int) and value > lowest else ""
        raise UserError(
            f"{name}={shortened(value)} must be a whole number of at least {lowest}{most}."
        )


def check_float32(
    name: str, value: Any, *, default: float | None = None, may_be_zero: bool = False
) -> None:
    """Check a number that is computed with in float32, such as a lora_alpha, divided by a rank.

    default: of the field, to name.

    Raises:
        UserError: no number, not above 0, or one that float32 cannot hold.
    """
    limits = torch.finfo(torch.float32)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if may_be_zero and is_number and value == 0:
        return
    if not is_number or not limits.tiny <= value <= limits.max:
        kind = "0, or" if may_be_zero else "above 0, and"
        usual = "" if default is None else f"; {default:g} is the default"
        raise UserError(
            f"{name}={shortened(value)} must be {kind} a number that float32 can hold "
            f"({limits.tiny:.1e} to {limits.max:.1e}){usual}."
        )


def check_share(name: str, value: float) -> None:
    """Check that a number is a share of one, and not all of it.

    Raises:
        UserError: it is below 0, or 1 or more.
    """
    if not SHARE.holds(value):
        raise UserError(f"{name}={value} must be in [0, 1).")


def check_choice(name: str, value: Any, allowed: Sequence[Any]) -> None:
    """Check that a field is one of some values.

    Raises:
        UserError: it is none of them.
    """
    # 1 == True, and is not the same.
    if not any(type(value) is type(each) and value == each for each in allowed):
        raise UserError(
            f"{name}={shortened(value)} is not known: choose one of "
            f"{', '.join(map(repr, allowed))}."
        )


def checked_pattern(name: str, pattern: dict[str, int] | None, lowest: int = 1) -> dict[str, int]:
    """Return sizes by pattern of a module's name; None means no pattern.

    Raises:
        UserError: a size that is no whole number or below `lowest`, or a pattern that is none.
    """
    for key, value in (pattern or {}).items():
        check_regular_expression(name, key)
        check_whole(f"{name}[{key!r}]", value, lowest)
    return pattern or {}


def check_regular_expression(name: str, pattern: str) -> None:
    """Check that a field is a regular expression.

    Raises:
        UserError: it is none.
    """
    try:
        with warnings.catch_warnings():
            # Python warns of what may mean something else in a later version.
            warnings.simplefilter("ignore", FutureWarning)
            re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise UserError(
            f"{name}={pattern} is not a regular expression ({error}); write names of modules, or "
            "correct the expression."
        ) from error
