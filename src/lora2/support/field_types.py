"""Whether a value read from a file has the type that a field declares, and types in words."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin

from lora2.support.shown_values import MOST_SHOWN, cut_off

# Python refuses to write whole numbers of more than some thousand digits.
_LARGEST = 10**MOST_SHOWN
_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "a mapping",
    type(None): "null",
}


def fits(value: Any, hint: Any) -> bool:
    """Whether a value of JSON or YAML has a type; a whole number is a float, too.

    hint: a class, a union, a Literal, or a list or dict of those. Any other fits everything.
    """
    if hint is Any:
        return True
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if kind is Literal:
        # 1 == True, and is not the same.
        return any(type(value) is type(each) and value == each for each in parts)
    if kind is list:
        return isinstance(value, list) and all(fits(each, part) for each in value for part in parts)
    if kind is dict:
        return isinstance(value, dict) and _fit(value, parts)
    if kind is float:
        # Python writes whole numbers of hundreds of digits, for which there is no float.
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and (isinstance(value, float) or is_finite(value))
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if _is_enum(kind):
        # An array that is compared is no truth value.
        return any(isinstance(value, type(e.value)) and value == e.value for e in kind)
    return kind is Any or not isinstance(kind, type) or isinstance(value, kind)


def _fit(value: dict[Any, Any], parts: tuple[Any, ...]) -> bool:
    if not parts:
        return True
    names, values = parts
    return all(fits(name, names) and fits(each, values) for name, each in value.items())


def is_finite(value: Any) -> bool:
    """Whether a value is a number that a float can hold."""
    try:
        return math.isfinite(value)
    # Tensors of several numbers, or of complex ones, raise the other errors.
    except (OverflowError, TypeError, ValueError, RuntimeError):
        return False


def is_finite_number(value: Any) -> bool:
    """Whether a value is such a number, and not true or false, which Python counts as 1 and 0."""
    return not isinstance(value, bool) and is_finite(value)


def is_sequence(value: Any) -> bool:
    """Whether a value is several in an order, such as a list or an array, and not one text."""
    if isinstance(value, str | bytes | bytearray | Mapping) or not hasattr(value, "__getitem__"):
        return False
    try:
        return len(value) >= 0
    # Types, and arrays and tensors of one number, have no length.
    except TypeError:
        return False


def _is_enum(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Enum)


def allows_none(hint: Any) -> bool:
    """Whether a field may be null."""
    return fits(None, hint)


def in_words(hint: Any) -> str:
    """Return a type as a sentence names it."""
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, types.UnionType):
        # Enumerations of transformers are declared as `X | str`, where no other text will do.
        named = [part for part in parts if part is not str or not any(map(_is_enum, parts))]
        return ", or ".join(in_words(part) for part in named)
    if kind is Literal:
        return "one of " + ", ".join(_as_written(each) for each in parts)
    if kind is list and parts:
        return f"a list in which each is {in_words(parts[0])}"
    if kind is dict and parts:
        return f"a mapping in which each value is {in_words(parts[1])}"
    if _is_enum(kind):
        return "one of " + ", ".join(str(each.value) for each in kind)
    return _WORDS.get(kind, "another value")


def kind_of(value: Any) -> str:
    """Return the type of a value of JSON or YAML in words."""
    if isinstance(value, bool):
        return _as_written(value)
    return _WORDS.get(type(value), f"a {type(value).__name__}")


def shortened(value: Any) -> str:
    """Return a value as a file writes it, cut off after some characters."""
    if isinstance(value, list | dict) and not value:
        return "an empty list" if isinstance(value, list) else "an empty mapping"
    # A mapping or list may be deep, or contain itself.
    text = kind_of(value) if isinstance(value, list | dict) else _as_written(value)
    return cut_off(text)


def _as_written(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int) and abs(value) > _LARGEST:
        return "a number of too many digits"
    return repr(value)
