"""Intervals of numbers that options may have, and the check of one number."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from lora2.errors import UserError

# The largest number that float32 holds, rounded down.
_FLOAT32 = 3.4e38


@dataclass(frozen=True)
class Range:
    """An interval of finite numbers.

    Attributes:
        least: the lowest number.
        below: the number that all must be below, if there is one.
        open: whether `least` itself is left out.
        whole_from: from where on only whole numbers are allowed: a share below, a count from there.
        instead: what to write for an option that is not wanted, if that is not to leave it out.
    """

    least: float
    below: float = math.inf
    open: bool = False
    whole_from: float = math.inf
    instead: float | None = None

    def holds(self, value: float) -> bool:
        """Whether a number is in the interval; NaN and infinities are in none."""
        if value == self.instead:
            return True
        if not self.least <= value < self.below or (self.open and value == self.least):
            return False
        return value < self.whole_from or value == int(value)

    def __str__(self) -> str:
        kind = "a whole number" if self.whole_from <= self.least else "a finite number"
        lowest = f"above {self.least:g}" if self.open else f"of at least {self.least:g}"
        # No one meets the limits of 64 bits by writing a number that was wanted.
        highest = f" and below {self.below:,.0f}" if self.below <= 2**32 else ""
        whole = f", and a whole one from {self.whole_from:g}" if self._turns_whole else ""
        other = "" if self.instead is None else f", or {self.instead:g}"
        return f"{kind} {lowest}{highest}{whole}{other}"

    @property
    def _turns_whole(self) -> bool:
        return self.least < self.whole_from < math.inf


POSITIVE = Range(0, _FLOAT32, open=True)
# float32 has fewer digits of what is smaller, and processors may take it for 0.
NORMAL = Range(1.2e-38, _FLOAT32)
NOT_NEGATIVE = Range(0, _FLOAT32)
COUNT = Range(1, 2**63, whole_from=1)
COUNT_OR_NONE = Range(0, 2**63, whole_from=0)
SHARE = Range(0, 1)
# numpy takes these; torch takes more.
SEED = Range(0, 2**32, whole_from=0)
EPOCHS = Range(0, 1e9, open=True)
SIZE = Range(1, 2**24, whole_from=1)
"""Sizes of adapters and of what is made in memory; beyond, no machine has that much."""
# A share of all steps, or a number of steps.
INTERVAL = Range(0, open=True, whole_from=1)


def check_number(name: str, value: Any, allowed: Range) -> None:
    """Check one number.

    Raises:
        UserError: it is not in the range.
    """
    if not allowed.holds(value):
        # A limit that `Range` does not name, of float32 or of 64 bits, is said where it is met.
        is_met = 2**32 < allowed.below < math.inf and value >= allowed.below
        limit = f" and below {allowed.below:g}" if is_met else ""
        raise UserError(f"{name}={value} must be {allowed}{limit}.")
