"""What a table shows in every format: lines of text, in groups."""

from __future__ import annotations

from dataclasses import dataclass

from lora2.lab.experiments.rendering.lines import Line, heading, lines
from lora2.lab.experiments.tables.table import ResultTable


@dataclass(frozen=True)
class Printout:
    """A table as text.

    Attributes:
        name: its id on a page, such as "table1".
        title: what it shows.
        heading: names of the columns.
        groups: lines that belong together, from top to bottom.
        names: leading columns that name a group; they are in its first line.
        texts: leading columns of text, those of `names` among them; the others are numbers.
        notes: sentences below it.
    """

    name: str
    title: str
    heading: Line
    groups: tuple[tuple[Line, ...], ...]
    names: int
    texts: int
    notes: tuple[str, ...] = ()


def printout(table: ResultTable) -> Printout:
    """Return a table of methods: method and setting name a group, and each line has a kind."""
    return Printout(
        table.name,
        table.title,
        heading(table),
        tuple(tuple(lines(row, table.measures)) for row in table.rows),
        names=2,
        texts=3,
        notes=table.notes,
    )
