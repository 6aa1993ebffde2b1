"""Finds the name that was meant by one that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# Below this likeness, difflib finds names that have only some letters in common.
_LIKENESS = 0.65


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that one may stand for: by its letters, or by its initials."""
    known = sorted(known)
    by_initials = [each for each in known if "".join(w[:1] for w in each.split("_")) == name]
    near = difflib.get_close_matches(name, known, n=1, cutoff=_LIKENESS) or by_initials
    return near[0] if near else None
