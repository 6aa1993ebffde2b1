"""Reads the values of options, and says of a wrong one what it must be."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers.hf_argparser import string_to_bool

from lora2.errors import UserError
from lora2.support.checked_files import read_json, read_json_text
from lora2.support.field_types import shortened
from lora2.support.ranges import SIZE


def _reading(kind: type[int] | type[float], wanted: str) -> Callable[[str], Any]:
    """Return a reader of numbers of a kind."""

    def read(text: str) -> Any:
        try:
            return kind(text)
        except ValueError as error:
            message = f"{shortened(text)} is not {wanted}"
            raise argparse.ArgumentTypeError(message) from error

    return read


def read_truth(text: str | bool) -> bool:
    """Return the truth value that a text is, in any of the words that transformers knows for it.

    Raises:
        ArgumentTypeError: it is none.
    """
    try:
        return bool(string_to_bool(text))
    except argparse.ArgumentTypeError as error:
        message = f"{shortened(text)} is neither true nor false"
        raise argparse.ArgumentTypeError(message) from error


NUMBERS: dict[Any, Callable[[str], Any]] = {
    int: _reading(int, "a whole number, such as 8"),
    float: _reading(float, "a number, such as 0.5"),
}
"""What reads numbers, by their type."""
READERS: dict[Any, Callable[[Any], Any]] = NUMBERS | {string_to_bool: read_truth}
"""What reads the values of options, by what argparse or transformers would read them with."""


def at_least_one(text: str) -> int:
    """Return the whole number of at least 1 that a text is.

    Raises:
        ArgumentTypeError: it is none, or too large.
    """
    # Python reads no number of more than 4,300 digits.
    if not text.isdecimal() or len(text) > 4300 or not SIZE.holds(int(text)):
        raise argparse.ArgumentTypeError(f"{shortened(text)} is not {SIZE}")
    return int(text)


def or_none(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a reader of what `read` reads, and of none and null."""

    def read_or_none(text: str) -> Any:
        return None if text.lower() in ("none", "null") else read(text)

    return read_or_none


def read_mapping(text: str) -> Any:
    """Return the JSON object that a text is.

    Raises:
        ArgumentTypeError: it is none.
    """
    if text.startswith("{"):
        try:
            return read_json_text(text, shortened(text))
        except UserError as error:
            raise argparse.ArgumentTypeError(str(error).rstrip(".")) from error
    raise argparse.ArgumentTypeError(
        f'{shortened(text)} is not a JSON object such as {{"query": 4}}'
    )


def read_mapping_or_file(text: str) -> Any:
    """Return the object that a text is, or that is in the JSON file which it names.

    Raises:
        ArgumentTypeError: there is none.
    """
    if text.lstrip()[:1] in ("{", "["):
        return read_mapping(text.lstrip())
    if not text:
        raise argparse.ArgumentTypeError("an empty text is neither JSON nor a file of it")
    try:
        return read_json(Path(text), "give a file of JSON, or an object such as {}")
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error).rstrip(".")) from error
