"""Values as a message shows them."""

from __future__ import annotations

from pathlib import PurePath

MOST_SHOWN = 60
"""Number of characters after which a message cuts a value off."""

# What the file systems of all machines take.
_LONGEST_NAME, _LONGEST_PATH = 255, 4096


def as_shown(value: object) -> str:
    """Return a value of Python, such as one of a cell, cut off after some characters."""
    try:
        shown = repr(value)
    except ValueError:  # an integer of too many digits
        return "a number of too many digits"
    return cut_off(shown)


def cut_off(text: str, most: int = MOST_SHOWN) -> str:
    """Return a text without what comes after so many characters."""
    return text if len(text) <= most else f"{text[:most]}…"


def shown_path(path: object) -> str:
    """Return a path, cut off if no file can have it."""
    text = str(path)
    longest = max(map(len, PurePath(text).parts), default=0)
    return cut_off(text) if longest > _LONGEST_NAME or len(text) > _LONGEST_PATH else text
