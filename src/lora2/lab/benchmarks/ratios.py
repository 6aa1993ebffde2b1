"""Ratios within each round, then median and quartiles over the rounds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

Seconds = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of what was measured in each round."""

    median: float
    lower: float
    upper: float


def spread(values: Sequence[float]) -> Spread:
    """Return median and quartiles (of one value: that value)."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, lower, upper)


def spreads(values: Seconds) -> dict[str, dict[str, float]]:
    """Return median and quartiles by name, as a record has them."""
    return {name: asdict(spread(each)) for name, each in values.items()}


def ratio(seconds: Seconds, name: str, baseline: str) -> Spread:
    """Return how much longer one takes than another in the same round."""
    pairs = zip(seconds[name], seconds[baseline], strict=True)
    return spread([own / other for own, other in pairs])


def differs(median: float, lower: float, upper: float) -> bool:
    """Whether a ratio is further from 1 than its quartiles are from each other."""
    return abs(median - 1) >= upper - lower


def overhead(seconds: Seconds, name: str, reference: str = "lora", floor: str = "floor") -> Spread:
    """Return (own − floor) / (reference − floor): what an adapter costs, in costs of another."""
    triples = zip(seconds[name], seconds[reference], seconds[floor], strict=True)
    return spread([(own - low) / (other - low) for own, other, low in triples])
