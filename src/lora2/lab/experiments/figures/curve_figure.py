"""Learning curves from records: a metric by optimizer step, mean over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora2.data.public.glue import task_title
from lora2.lab.experiments.tables.averages import estimate
from lora2.lab.experiments.tables.grid import Column, Grid, Row
from lora2.lab.experiments.tables.summary import Find
from lora2.reports.line_ends import name_lines
from lora2.reports.panels import new_figure, png

# Matplotlib takes inches.
_WIDTH, _HEIGHT, _HEIGHT_OF_A_NAME = 6.2, 2.6, 0.15
# Okabe and Ito's colours, which colour-blind readers tell apart; the dash is the second cue.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (8, 2)), (0, (2, 1)))
_OURS = "lora2"
# Widths of lines; only strong ones have a band of a standard deviation.
_STRONG, _FAINT = 2.0, 1.0


@dataclass(frozen=True)
class Curve:
    """Means over seeds, in the unit of the table's column, at the steps that all seeds have.

    Attributes:
        steps: optimizer steps.
        values: means.
        deviations: standard deviations over seeds; zeros of a single seed.
    """

    steps: tuple[int, ...]
    values: tuple[float, ...]
    deviations: tuple[float, ...]


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
    height = _HEIGHT + _HEIGHT_OF_A_NAME * len(grid.rows)
    figure, all_axes = new_figure(len(shown), (_WIDTH, height))
    looks = styles(grid.rows)
    for axes, (column, curves) in zip(all_axes, shown, strict=True):
        lines = {}
        for name, drawn in curves.items():
            look = looks[name]
            (lines[name],) = axes.plot(drawn.steps, drawn.values, **look)
            if look["linewidth"] == _STRONG:
                low = [v - d for v, d in zip(drawn.values, drawn.deviations, strict=True)]
                high = [v + d for v, d in zip(drawn.values, drawn.deviations, strict=True)]
                axes.fill_between(
                    drawn.steps, low, high, color=look["color"], alpha=0.15, linewidth=0
                )
        axes.set_title(task_title(column.task))
        axes.set_xlabel("optimizer step")
        unit = ", %" if column.is_percentage else ""
        axes.set_ylabel(f"{column.metric.replace('_', ' ')}{unit}")
        axes.spines[["top", "right"]].set_visible(False)
        name_lines(axes, lines, height)
    return png(figure)


def curve(row: Row, column: Column, find: Find) -> Curve | None:
    """Return the mean over the finished runs of a row, None if there are none."""
    by_step = [
        {entry["step"]: column.scale * entry[column.metric] for entry in record.evaluations
         if column.metric in entry}
        for run in row.runs.get(column.task, ())
        if (record := find(run)) is not None and record.finished
    ]  # fmt: skip
    # A step that only some seeds have would bend the mean without anything having been learnt.
    steps = sorted(set.intersection(*map(set, by_step))) if by_step else []
    estimates = {
        step: found for step in steps if (found := estimate([values[step] for values in by_step]))
    }
    if not estimates:
        return None
    return Curve(
        tuple(estimates),
        tuple(found.mean for found in estimates.values()),
        tuple(found.deviation or 0.0 for found in estimates.values()),
    )


def styles(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Return what the line of each row looks like, by its name; no two are alike."""
    return line_styles({row.name: row.method for row in rows})


def line_styles(methods: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return what each line looks like, by its name; no two are alike.

    LoRA²'s lines are drawn strong and the others faint; where all are LoRA²'s, the first is strong.

    Args:
        methods: the method of each line, by the line's name.
    """
    ours = [name for name, method in methods.items() if method == _OURS]
    strong = ours if len(ours) < len(methods) else ours[:1]
    looks = ((color, dash) for dash in _DASHES for color in _COLORS)
    return {
        name: {
            "color": color,
            "linestyle": dash,
            "linewidth": _STRONG if name in strong else _FAINT,
            "alpha": 1.0 if name in strong else 0.6,
        }
        for name, (color, dash) in zip(methods, looks, strict=False)
    }


def _first_columns(grid: Grid) -> list[Column]:
    first: dict[str, Column] = {}
    for column in grid.columns:
        first.setdefault(column.task, column)
    return list(first.values())


def _curves(grid: Grid, column: Column, find: Find) -> dict[str, Curve]:
    found = {row.name: curve(row, column, find) for row in grid.rows}
    return {name: line for name, line in found.items() if line is not None}
