"""The refusal of options that have no effect where they are given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lora2.errors import UserError
from lora2.training.options.arguments import as_typed


def refuse_idle(
    given: Mapping[str, Any], names: Iterable[str], reason: str, place: str = ""
) -> None:
    """Refuse options that have no effect, where they are given.

    Raises:
        UserError: one of them has a value, other than None, False or "none".
    """
    for name in names:
        value = given.get(name)
        # `in` would be wrong: 0 equals False.
        if value is None or value is False or value == "none":
            continue
        raise UserError(
            f"{name}={as_typed(value)}{place} has no effect {reason}; leave {name} out."
        )
