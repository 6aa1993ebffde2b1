"""The average of a row, as the paper takes it, and averages over seeds."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from lora2.lab.experiments.tables.grid import Column


@dataclass(frozen=True)
class Estimate:
    """A number over seeds.

    Attributes:
        mean: over the seeds.
        deviation: the sample standard deviation (n − 1), None for a single seed.
        count: n, the number of seeds.
    """

    mean: float
    deviation: float | None
    count: int


def estimate(values: Collection[float]) -> Estimate | None:
    """Return mean and deviation of the values, None if there are none."""
    if not values:
        return None
    mean = fmean(values)
    if len(values) == 1:
        return Estimate(mean, None, 1)
    # `statistics.stdev` raises AttributeError where a value is NaN; here the deviation is NaN, too.
    squares = math.fsum((value - mean) ** 2 for value in values)
    return Estimate(mean, math.sqrt(squares / (len(values) - 1)), len(values))


def row_average(values: Mapping[str, float], columns: Iterable[Column]) -> float:
    """Return the mean over tasks: the columns of a pair count as one, by their mean."""
    groups: dict[str, list[float]] = {}
    for column in columns:
        groups.setdefault(_group(column), []).append(values[column.name])
    return fmean([fmean(group) for group in groups.values()])


def pairs(columns: Iterable[Column]) -> list[list[Column]]:
    """Return the columns that are averaged first, pair by pair."""
    found: dict[str, list[Column]] = {}
    for column in columns:
        if column.pair is not None:
            found.setdefault(column.pair, []).append(column)
    return [pair for pair in found.values() if len(pair) > 1]


def averages_by_seed(
    values: Mapping[str, Mapping[int, float]], columns: Sequence[Column]
) -> dict[int, float]:
    """Return the row's average of every seed that has a value in all columns.

    Args:
        values: by column and seed.
        columns: of the row.
    """
    seeds = [values[column.name].keys() for column in columns]
    complete = sorted(set(seeds[0]).intersection(*seeds[1:])) if seeds else []
    return {
        seed: row_average({name: of_seed[seed] for name, of_seed in values.items()}, columns)
        for seed in complete
    }


def _group(column: Column) -> str:
    # A pair may be called what a column is called; the two are kept apart.
    return f"column {column.name}" if column.pair is None else f"pair {column.pair}"
