"""What an option needs to have an effect, for the metadata of its field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Need(NamedTuple):
    """When an option has an effect.

    Attributes:
        otherwise: why it has none in other runs, in the words of the options.
        holds: whether it has one, given all options of a run.
    """

    otherwise: str
    holds: Callable[[Any], bool]
