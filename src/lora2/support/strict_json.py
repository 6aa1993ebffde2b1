"""Parses JSON more strictly than `json.loads`, and says what is wrong by kind.

The callers put it into words: what helps against a fault differs between options, records and rows.
"""

from __future__ import annotations

import json
import math
from typing import Any, Literal

from lora2.support.repeated import first_repeated

DEEPEST = 100
"""How many lists and objects may be in each other. Python's own limit differs by version, and it
reads text at that limit which it cannot write again."""

Fault = Literal["syntax", "repeated key", "not a number", "too many digits", "too deep"]


class JsonError(ValueError):
    """Text that is not strict JSON.

    Attributes:
        fault: what is wrong.
        name: the key that is repeated, or what is written in place of a number.
        syntax: Python's error, which has the position, of faults of syntax.
    """

    def __init__(
        self, fault: Fault, name: str = "", syntax: json.JSONDecodeError | None = None
    ) -> None:
        super().__init__(fault, name, syntax)
        self.fault, self.name, self.syntax = fault, name, syntax


def parse(text: str, *, not_finite: Literal["refused", "null", "read"] = "refused") -> Any:
    """Return the value of a JSON text.

    not_finite: what becomes of NaN, Infinity and numbers that are infinite as a float (1e999).

    Raises:
        JsonError: a fault of syntax, a key that an object has twice, a number that is not finite or
            has too many digits, or lists and objects that are nested too deeply.
    """

    def constant(written: str) -> float | None:
        if not_finite == "refused":
            raise JsonError("not a number", written)
        return float(written) if not_finite == "read" else None

    def number(digits: str) -> float | None:
        value = float(digits)
        return value if math.isfinite(value) else constant(digits)

    try:
        value = json.loads(
            text, object_pairs_hook=_unique, parse_constant=constant, parse_float=number
        )
    except JsonError:
        raise
    except json.JSONDecodeError as error:
        raise JsonError("syntax", syntax=error) from error
    except RecursionError as error:
        raise JsonError("too deep") from error
    except ValueError as error:
        # Python reads no integer of more than 4,300 digits.
        raise JsonError("too many digits") from error
    if text.count("[") + text.count("{") > DEEPEST and _depth(value) > DEEPEST:
        raise JsonError("too deep")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    repeated = first_repeated(name for name, _ in pairs) if len(content) < len(pairs) else None
    if repeated is not None:
        raise JsonError("repeated key", repeated)
    return content


def _depth(value: object) -> int:
    """Return how many lists and objects are in each other."""
    level, depth = [value], 0
    while level := [each for each in level if isinstance(each, list | dict)]:
        depth += 1
        level = [
            part for each in level for part in (each.values() if isinstance(each, dict) else each)
        ]
    return depth
