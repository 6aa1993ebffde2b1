"""Writes what is made from records: tables, figures, and one page with all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from lora2.lab.experiments.figures.curve_figure import curve_figure
from lora2.lab.experiments.figures.kept_figure import kept_figure
from lora2.lab.experiments.figures.pareto_figure import pareto_figure
from lora2.lab.experiments.figures.size_figure import size_figure
from lora2.lab.experiments.rendering import comma_separated, latex, markdown
from lora2.lab.experiments.rendering.page import PageFigure, render_page
from lora2.lab.experiments.rendering.printout import Printout, printout
from lora2.lab.experiments.tables.grid import Grid
from lora2.lab.experiments.tables.summary import Find, summarize
from lora2.support.files import write_atomically

PAGE = "index.html"

_KEPT_TABLE = "figure3"


def write_grid(grid: Grid, find: Find, folder: Path) -> Iterator[Path]:
    """Write table and figure of a grid into a folder and yield the paths."""
    table = summarize(grid, find)
    yield from write_table(printout(table), folder)
    yield _written(folder / f"{grid.name}.csv", comma_separated.render(table))
    for figure in figures(grid, find):
        yield _written(folder / f"{figure.name}.png", figure.png)


def write_table(table: Printout, folder: Path) -> Iterator[Path]:
    """Write a table as Markdown and LaTeX and yield the paths."""
    yield _written(folder / f"{table.name}.md", markdown.render(table))
    yield _written(folder / f"{table.name}.tex", latex.render(table))


def write_page(
    title: str, grids: Iterable[Grid], others: Sequence[Printout], find: Find, folder: Path
) -> Path:
    """Write the page of all tables of which a run has finished, and of the others."""
    begun = [grid for grid in grids if _has_begun(grid, find)]
    tables = [printout(summarize(grid, find)) for grid in begun if grid.name != _KEPT_TABLE]
    drawn = [figure for grid in begun for figure in figures(grid, find)]
    return _written(folder / PAGE, render_page(title, [*tables, *others], drawn))


def figures(grid: Grid, find: Find) -> list[PageFigure]:
    """Return the figure of a grid, none before a run that can be drawn has finished."""
    name, title, draw = _FIGURES.get(
        grid.name, (f"{grid.name}-curves", f"Evaluations: {grid.title}", curve_figure)
    )
    png = draw(grid, find)
    return [] if png is None else [PageFigure(name, title, png)]


_FIGURES: dict[str, tuple[str, str, Callable[[Grid, Find], bytes | None]]] = {
    **{
        name: (f"{name}-costs", "Score against size, memory and what is lost", pareto_figure)
        for name in ("leaderboard", "usual", "language")
    },
    "sizes": ("sizes", "Score against final size", size_figure),
    _KEPT_TABLE: (_KEPT_TABLE, "Figure 3: kept singular values by layer and matrix", kept_figure),
}


def _has_begun(grid: Grid, find: Find) -> bool:
    records = (find(description) for description in grid.descriptions())
    return any(record is not None and record.finished for record in records)


def _written(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
    return path
