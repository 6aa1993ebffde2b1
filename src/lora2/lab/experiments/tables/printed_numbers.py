"""Numbers as tables print them."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

_HUNDREDTH = Decimal("0.01")
# Digits that sums of printed numbers hold exactly; what is beyond them is binary noise.
_EXACT = 9


def printed(value: float) -> str:
    """Return a number with two decimals; halves go up, as in the paper's own averages."""
    return str(_rounded(value))


def signed(value: float) -> str:
    """Return a difference with two decimals and its sign."""
    rounded = _rounded(value)
    # A run that diverged has no number, and what is not a number has no sign.
    if rounded.is_nan():
        return str(rounded)
    return f"{'−' if rounded < 0 else '+'}{abs(rounded)}"


def _rounded(value: float) -> Decimal:
    return Decimal(str(round(value, _EXACT))).quantize(_HUNDREDTH, ROUND_HALF_UP)
