"""Score against final size from records: a line for each way to come to a size."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, log10
from typing import Any

from lora2.lab.experiments.figures.curve_figure import line_styles
from lora2.lab.experiments.tables.grid import Grid
from lora2.lab.experiments.tables.summary import Find, summarize
from lora2.lab.experiments.tables.table import ResultTable
from lora2.reports.line_ends import name_lines
from lora2.reports.panels import new_figure, png

# Matplotlib takes inches.
_WIDTH, _HEIGHT = 5.4, 3.8
# How far beyond the sizes a tick may be.
_MARGIN = 1.05


@dataclass(frozen=True)
class SizeLine:
    """Scores of the rows of one label, from the smallest final size to the largest.

    Attributes:
        sizes: parameters at the end, means of the smallest and largest over the runs of a row.
        values: means over seeds of the last evaluation, in %.
        deviations: standard deviations over seeds, in %; zeros of a single seed.
    """

    sizes: tuple[float, ...]
    values: tuple[float, ...]
    deviations: tuple[float, ...]


def size_figure(grid: Grid, find: Find) -> bytes | None:
    """Return the figure as PNG: a panel of the average, and one for each column.

    The last evaluation is drawn, because an adapter that is cut after training has no other.
    """
    table = summarize(grid, find, {})
    panels = size_lines(table)
    panels = {title: lines for title, lines in panels.items() if lines}
    if not panels:
        return None
    figure, all_axes = new_figure(len(panels), (_WIDTH, _HEIGHT))
    looks = line_styles({row.label: row.method for row in grid.rows})
    for axes, (title, lines) in zip(all_axes, panels.items(), strict=True):
        drawn = {}
        for label, line in lines.items():
            look: dict[str, Any] = looks[label]
            axes.errorbar(line.sizes, line.values, line.deviations, capsize=2, fmt="none",
                          ecolor=look["color"], alpha=look["alpha"], elinewidth=1)  # fmt: skip
            (drawn[label],) = axes.plot(line.sizes, line.values, marker="o", markersize=4, **look)
        axes.set_xscale("log", base=2)
        axes.set_title(title)
        axes.set_xlabel("parameters at the end")
        axes.set_ylabel("last evaluation, %")
        axes.spines[["top", "right"]].set_visible(False)
        _thousands(axes, [size for line in lines.values() for size in line.sizes])
        name_lines(axes, drawn, _HEIGHT)
    return png(figure)


def size_lines(table: ResultTable) -> dict[str, dict[str, SizeLine]]:
    """Return the lines of each panel by its title: the average first, then the columns."""
    titles = ["average", *(column.label for column in table.columns)]
    points: dict[str, dict[str, list[tuple[float, ...]]]] = {title: {} for title in titles}
    for row in table.rows:
        size = row.parameters.final or row.parameters.initial
        for title, cell in zip(titles, (row.average, *row.cells), strict=True):
            if size is not None and cell.last is not None:
                point = sum(size) / 2, cell.last.mean, cell.last.deviation or 0.0
                points[title].setdefault(row.row.label, []).append(point)
    return {
        title: {
            label: SizeLine(*zip(*sorted(of_label), strict=True))
            for label, of_label in by_label.items()
        }
        for title, by_label in points.items()
    }


def _thousands(axes: Any, sizes: list[float]) -> None:
    """Write round sizes, each twice the one before, at the axis, in thousands."""
    digit = 10 ** floor(log10(min(sizes)))
    place, places = floor(min(sizes) / digit) * digit, []
    while place <= max(sizes) * _MARGIN:
        if place >= min(sizes) / _MARGIN:
            places.append(place)
        place *= 2
    axes.set_xticks(places, [f"{place / 1000:,.0f}k" for place in places])
    axes.minorticks_off()
