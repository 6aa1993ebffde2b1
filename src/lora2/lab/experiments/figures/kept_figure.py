"""The paper's Figure 3 from records: where the kept singular values are, task by task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lora2.data.public.glue import task_title
from lora2.lab.experiments.description import RunDescription
from lora2.lab.experiments.record import RunRecord
from lora2.lab.experiments.tables.grid import Grid
from lora2.lab.experiments.tables.summary import Find
from lora2.reports.figures import draw_counts
from lora2.reports.kept_values import KeptGrid, kept_grid
from lora2.reports.panels import new_figure, png


@dataclass(frozen=True)
class Panel:
    """Kept singular values of a row and task.

    Attributes:
        title: the task, and of several rows the row.
        means: the counts are means over the runs, one run a seed.
        runs: number of runs that the means are over.
    """

    title: str
    means: KeptGrid
    runs: int


def kept_figure(grid: Grid, find: Find) -> bytes | None:
    """Return the figure as PNG, a panel for each row and task; None if nothing has finished.

    Args:
        grid: its rows of LoRA² adapters are drawn.
        find: finds the record of a run.
    """
    shown = mean_kept(grid, find)
    if not shown:
        return None
    width = max(len(panel.means.matrices) for panel in shown)
    height = max(len(panel.means.layers) for panel in shown)
    figure, all_axes = new_figure(len(shown), (1.4 + 0.62 * width, 1.9 + 0.3 * height))
    # One scale of grey: panels can be compared.
    largest = max(max(panel.means.largest for panel in shown), 1)
    for axes, panel in zip(all_axes, shown, strict=True):
        means = panel.means
        draw_counts(axes, means.layers, means.matrices, means.counts, largest)
        kept = f"{means.share_in_words} kept, {_runs(panel.runs)}"
        axes.set_title(f"{panel.title}\n{kept}", fontsize="medium")
    return png(figure)


def mean_kept(grid: Grid, find: Find) -> list[Panel]:
    """Return what the figure shows: every row and task with kept singular values on record."""
    tasks = dict.fromkeys(column.task for column in grid.columns)
    found = [
        (row, task, adapters)
        for row in grid.rows
        for task in tasks
        if (adapters := _adapters(row.runs.get(task, ()), find))
    ]
    several = len({row.name for row, _, _ in found}) > 1
    return [
        Panel(
            f"{task_title(task)}, {row.name}" if several else task_title(task),
            _mean(adapters),
            len(adapters),
        )
        for row, task, adapters in found
    ]


def _adapters(runs: Sequence[RunDescription], find: Find) -> list[KeptGrid]:
    return [
        kept_grid(record.kept, _initial(record))
        for record in map(find, runs)
        if record is not None and record.finished and record.kept
    ]


def _initial(record: RunRecord) -> dict[str, int] | None:
    return None if record.initial is None else dict.fromkeys(record.kept, record.initial)


def _mean(grids: Sequence[KeptGrid]) -> KeptGrid:
    counts = tuple(
        tuple(_mean_count(of_seeds) for of_seeds in zip(*rows, strict=True))
        for rows in zip(*(grid.counts for grid in grids), strict=True)
    )
    largest = max(grid.largest for grid in grids)
    return replace(grids[0], counts=counts, largest=largest)


def _mean_count(counts: Sequence[float | None]) -> float | None:
    known = [count for count in counts if count is not None]
    return sum(known) / len(known) if known else None


def _runs(number: int) -> str:
    return "1 run" if number == 1 else f"mean of {number} runs"
