"""Labels that a reader takes for one, because they look the same."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from lora2.support.shown_values import cut_off

# Characters without a look of their own: soft hyphen, joiners, blanks of no width, marks of
# direction, byte-order mark, and what chooses between two forms of the character before it.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufe00-\ufe0f\ufeff]"
)


def look_of(label: str) -> str:
    """Return the same text for all labels that look alike."""
    return " ".join(_INVISIBLE.sub("", unicodedata.normalize("NFC", label)).split())


def first_alike(labels: Iterable[str]) -> tuple[str, str] | None:
    """Return the first two different labels that look alike, None if there are none."""
    looks: dict[str, str] = {}
    for label in dict.fromkeys(labels):
        other = looks.setdefault(look_of(label), label)
        if other != label:
            return other, label
    return None


def difference_of(label: str, other: str) -> str:
    """Return what tells two labels apart that look alike, for the end of a sentence."""
    if label.split() == other.split():
        return "which differ in blanks alone; write both the same way"
    return (
        f"which look the same and are different characters ({_codes(label)} and {_codes(other)}); "
        "write both the same way"
    )


def _codes(label: str) -> str:
    return cut_off(ascii(label))
