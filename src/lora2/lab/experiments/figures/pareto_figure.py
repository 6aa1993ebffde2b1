"""Score against what it costs, from records: a point for each row, a panel for each cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lora2.lab.experiments.figures.curve_figure import line_styles
from lora2.lab.experiments.tables.grid import Grid
from lora2.lab.experiments.tables.summary import Find, summarize
from lora2.lab.experiments.tables.table import ResultTable
from lora2.reports.line_ends import name_lines
from lora2.reports.panels import new_figure, png

# Matplotlib takes inches.
_WIDTH, _HEIGHT = 5.4, 4.2


@dataclass(frozen=True)
class ParetoPoint:
    """A row.

    Attributes:
        cost: averaged over its runs as the score is.
        score: the average of its last evaluations, mean over seeds.
        deviation: standard deviation over seeds; zero of a single seed.
    """

    cost: float
    score: float
    deviation: float


def pareto_figure(grid: Grid, find: Find) -> bytes | None:
    """Return the figure as PNG: final parameters, then each measure of the table.

    None before a row has a score in every column.
    """
    panels = {title: points for title, points in costs(summarize(grid, find, {})).items() if points}
    if not panels:
        return None
    figure, all_axes = new_figure(len(panels), (_WIDTH, _HEIGHT))
    looks = line_styles({row.name: row.method for row in grid.rows})
    for axes, (title, points) in zip(all_axes, panels.items(), strict=True):
        drawn = {}
        for name, point in points.items():
            look: dict[str, Any] = {key: looks[name][key] for key in ("color", "alpha")}
            axes.errorbar(point.cost, point.score, point.deviation, capsize=2, elinewidth=1,
                          ecolor=look["color"], alpha=look["alpha"], fmt="none")  # fmt: skip
            (drawn[name],) = axes.plot([point.cost], [point.score], "o", markersize=5, **look)
        # More numbers of parameters would overlap.
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlabel(title)
        axes.set_ylabel("average, last evaluation")
        axes.spines[["top", "right"]].set_visible(False)
        name_lines(axes, drawn, _HEIGHT)
    return png(figure)


def costs(table: ResultTable) -> dict[str, dict[str, ParetoPoint]]:
    """Return the points of each panel by its title, and by the name of the row."""
    found: dict[str, dict[str, ParetoPoint]] = {
        title: {} for title in ("parameters at the end", *(m.label for m in table.measures))
    }
    for row in table.rows:
        score = row.average.last
        if score is None:
            continue
        averages = (row.parameters.average, *row.measures)
        for points, cost in zip(found.values(), averages, strict=True):
            if cost is not None:
                points[row.row.name] = ParetoPoint(cost.mean, score.mean, score.deviation or 0.0)
    return found
