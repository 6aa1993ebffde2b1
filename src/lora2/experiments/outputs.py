"""Writes what is made from records: the table in four forms, and the figures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lora2.experiments.curve_figure import curve_figure
from lora2.experiments.grid import Grid
from lora2.experiments.kept_figure import kept_figure
from lora2.experiments.rendering import comma_separated, latex, markdown
from lora2.experiments.rendering.page import PageFigure, render_page
from lora2.experiments.rendering.printout import printout
from lora2.experiments.summary import Find, summarize
from lora2.files import write_atomically


def write_outputs(grid: Grid, find: Find, folder: Path) -> Iterator[Path]:
    """Write table and figures of a grid into a folder and yield the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    table = summarize(grid, find)
    printed = printout(table)
    figures = [
        PageFigure(name, title, png)
        for name, title, png in (
            ("figure3", "Figure 3: kept singular values", kept_figure(grid, find)),
            (f"{grid.name}-curves", "Evaluations during training", curve_figure(grid, find)),
        )
        if png is not None
    ]
    contents: dict[str, str | bytes] = {
        f"{grid.name}.md": markdown.render(printed),
        f"{grid.name}.csv": comma_separated.render(table),
        f"{grid.name}.tex": latex.render(printed),
        f"{grid.name}.html": render_page(grid.title, [printed], figures),
    }
    contents |= {f"{grid.name}-{figure.name}.png": figure.png for figure in figures}
    for name, content in contents.items():
        write_atomically(folder / name, content)
        yield folder / name
