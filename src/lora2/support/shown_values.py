"""Values as a message shows them."""

from __future__ import annotations

MOST_SHOWN = 60
"""Number of characters after which a message cuts a value off."""


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
