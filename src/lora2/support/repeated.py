"""What is there more than once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from typing import TypeVar

_Item = TypeVar("_Item", bound=Hashable)


def first_repeated(items: Iterable[_Item]) -> _Item | None:
    """Return the first item that is there again later, None if all differ."""
    return next((item for item, count in Counter(items).items() if count > 1), None)
