"""The table of measured steps, and the column that other tables have of them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace

from lora2.lab.benchmarks.ratios import ratio, spread
from lora2.lab.experiments.measured.times import MeasuredTimes
from lora2.lab.experiments.rendering.printout import Printout
from lora2.lab.experiments.reproduction import STEP_TIMES
from lora2.lab.experiments.tables.grid import Grid, Measure

_NOTES = (
    "Seconds of whole training steps, all rows in turns on the same batches in one process: "
    "medians; ratios to the first row within a round, medians and quartiles.",
)


def step_table(times: Sequence[MeasuredTimes]) -> Printout:
    """Return the table, one line a row, for every task the seconds and the ratio to the first."""
    names = list(times[0].seconds) if times else []
    machines = sorted({each.measured_with for each in times})
    rounds = min((len(each) for t in times for each in t.seconds.values()), default=0)
    return Printout(
        STEP_TIMES,
        "Seconds of a training step",
        ("method", *(f"{t.task}, {what}" for t in times for what in ("s", "ratio", "quartiles"))),
        tuple(
            ((name, *(text for each in times for text in _texts(each, name))),) for name in names
        ),
        names=1,
        texts=1,
        notes=(*_NOTES, *(f"Measured with {machine}, {rounds} rounds." for machine in machines)),
    )


def _texts(times: MeasuredTimes, name: str) -> tuple[str, str, str]:
    found = ratio(times.seconds, name, next(iter(times.seconds)))
    seconds = spread(times.seconds[name]).median
    return f"{seconds:.3f}", f"{found.median:.2f}", f"{found.lower:.2f} to {found.upper:.2f}"


def with_steps(grid: Grid, times: Sequence[MeasuredTimes]) -> Grid:
    """Return a table with a column of the steps that were measured on its tasks, if any were."""
    tasks = {column.task for column in grid.columns}
    own = [each for each in times if each.task in tasks]
    return replace(grid, measures=(*grid.measures, _measure(own))) if own else grid


def _measure(times: Sequence[MeasuredTimes]) -> Measure:
    # It is a mean over the tasks.
    first = next(iter(times[0].seconds))
    by_row = {
        name: statistics.fmean(ratio(each.seconds, name, first).median for each in times)
        for name in times[0].seconds
    }
    return Measure("step_ratio", f"step, of {first}'s", digits=2, by_row=by_row)
