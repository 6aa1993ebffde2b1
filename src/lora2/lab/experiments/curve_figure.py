"""Learning curves from records: a metric by optimizer step, mean over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

from lora2.data.glue import task_title
from lora2.lab.experiments.grid import Column, Grid, Row
from lora2.lab.experiments.summary import Find
from lora2.reports.panels import new_figure, png

# Inches; many lines and their legend want a higher panel.
_WIDTH, _HEIGHT, _HEIGHT_OF_A_LINE = 5.2, 2.6, 0.2
# Lines differ without colour: each has another marker, and its neighbours another dash.
# Thirteen, so that as many rows and more are all unlike: 4 does not divide it.
_MARKERS = "os^Dv<>Pp*Xhd"
_DASHES = ("-", "--", "-.", ":")
_GREYS = ("black", "0.4")
_MARKERS_ON_A_LINE = 8


@dataclass(frozen=True)
class Curve:
    """Means over seeds, in %, at the steps at which all of them were evaluated."""

    steps: tuple[int, ...]
    values: tuple[float, ...]


def curve_figure(grid: Grid, find: Find) -> bytes | None:
    """Return the figure as PNG, a panel for each task; None if nothing has finished.

    Args:
        grid: each of its rows is a line; of a task with several columns, the first is drawn.
        find: finds the record of a run.
    """
    shown = [
        (column, curves)
        for column in _first_columns(grid)
        if (curves := _curves(grid, column, find))
    ]
    if not shown:
        return None
    height = _HEIGHT + _HEIGHT_OF_A_LINE * len(grid.rows)
    figure, all_axes = new_figure(len(shown), (_WIDTH, height))
    looks = styles(grid.rows)
    lines = {}
    for axes, (column, curves) in zip(all_axes, shown, strict=True):
        for name, curve in curves.items():
            every = -(-len(curve.steps) // _MARKERS_ON_A_LINE)
            (lines[name],) = axes.plot(
                curve.steps, curve.values, **looks[name], markersize=4, markevery=every
            )
        axes.set_title(task_title(column.task))
        axes.set_xlabel("optimizer step")
        axes.set_ylabel(f"{column.metric.replace('_', ' ')}, %")
        axes.spines[["top", "right"]].set_visible(False)
    # In the order of the rows, whichever task came first.
    names = [name for name in looks if name in lines]
    figure.legend(
        [lines[name] for name in names], names, loc="outside lower center",
        ncols=min(len(names), 2 * len(all_axes)), frameon=False,
    )  # fmt: skip
    return png(figure)


def curve(row: Row, column: Column, find: Find) -> Curve | None:
    """Return the mean over the finished runs of a row, None if there are none."""
    by_step = [
        {entry["step"]: 100 * entry[column.metric] for entry in record.evaluations
         if column.metric in entry}
        for run in row.runs.get(column.task, ())
        if (record := find(run)) is not None and record.finished
    ]  # fmt: skip
    if not by_step:
        return None
    # A step that only some seeds have would bend the mean without anything having been learnt.
    steps = sorted(set(by_step[0]).intersection(*by_step[1:]))
    if not steps:
        return None
    means = (sum(values[step] for values in by_step) / len(by_step) for step in steps)
    return Curve(tuple(steps), tuple(means))


def styles(rows: Sequence[Row]) -> dict[str, dict[str, str]]:
    """Return what the line of each row looks like, by its name; no two are alike."""
    looks = zip(cycle(_GREYS), cycle(_DASHES), cycle(_MARKERS), strict=False)
    return {
        row.name: {"color": grey, "linestyle": dash, "marker": marker}
        for row, (grey, dash, marker) in zip(rows, looks, strict=False)
    }


def _first_columns(grid: Grid) -> list[Column]:
    first: dict[str, Column] = {}
    for column in grid.columns:
        first.setdefault(column.task, column)
    return list(first.values())


def _curves(grid: Grid, column: Column, find: Find) -> dict[str, Curve]:
    found = {row.name: curve(row, column, find) for row in grid.rows}
    return {name: line for name, line in found.items() if line is not None}
