"""The console of all commands, and tables that keep their figures however narrow it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Column, Table
from rich.text import Text

# Longer words may be broken.
_OF_TEXT, _OF_HEADING = 12, 6
_WIDE = 1000


def new_console(quiet: bool = False, width: int | None = None) -> Console:
    """Return a console that prints every text as it is: names of files may look like markup."""
    return Console(markup=False, emoji=False, highlight=False, quiet=quiet, width=width)


def print_table(console: Console, table: Table) -> None:
    """Print a table whose figures are never cut: where it is too wide, one line for each cell."""
    if _fit(console, table):
        console.print(table)
        return
    for line in _one_cell_a_line(table):
        console.print(line)


def _fit(console: Console, table: Table) -> bool:
    """Set the widths of the columns for the console, and return whether the figures fit."""
    for column in table.columns:  # as it was made, if it was printed before
        column.width = None
    widths = [_width(console, (each.header, *each.cells)).maximum for each in table.columns]
    least = [_least(console, column) for column in table.columns]
    room = console.width - (_rendered_width(console, table) - sum(widths))
    if sum(least) > room:
        return False
    while sum(widths) > room:
        shrinkable = [x for x, width in enumerate(widths) if width > least[x]]
        widths[max(shrinkable, key=widths.__getitem__)] -= 1
    for column, width in zip(table.columns, widths, strict=True):
        column.width, column.overflow = width, "fold"
    return True


def _least(console: Console, column: Column) -> int:
    """Return the width at which no figure is broken; words of texts and headings may be."""
    words = min(_width(console, [column.header]).minimum, _OF_HEADING)
    cells = _width(console, column.cells)
    if column.no_wrap:
        return max(cells.maximum, words)
    figures = cells.minimum if column.justify == "right" else min(cells.minimum, _OF_TEXT)
    return max(figures, words)


def _width(console: Console, cells: Iterable[RenderableType]) -> Measurement:
    """Return the widths of the longest word and of the longest line."""
    options = console.options.update(width=_WIDE)
    sizes = [Measurement.get(console, options, cell) for cell in cells]
    return Measurement(
        max((size.minimum for size in sizes), default=0),
        max((size.maximum for size in sizes), default=0),
    )


def _rendered_width(console: Console, table: Table) -> int:
    segments = console.render(table, console.options.update(width=_WIDE))
    return max(Segment.get_line_length(line) for line in Segment.split_lines(segments))


def _one_cell_a_line(table: Table) -> Iterator[Text]:
    if table.title is not None:
        yield Text(str(table.title), style="italic")
    others = table.columns[1:]
    rows = zip(*(column.cells for column in table.columns), strict=True)
    for name, *cells in rows:
        yield Text(_plain(name) or "–", style="bold")
        for column, cell in zip(others, cells, strict=True):
            if _plain(cell):
                name = f"{heading}: " if (heading := _heading(column)) else ""
                yield Text(f"  {name}{_plain(cell)}")
    if table.caption is not None:
        yield Text(str(table.caption), style="italic")


def _plain(cell: RenderableType) -> str:
    return str(cell).replace("\n", " ")


def _heading(column: Column) -> str:
    # Names of modules are broken after an underscore, and in place of a dot.
    return str(column.header).replace("_\n", "_").replace("\n", ".")
