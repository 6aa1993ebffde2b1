"""A table as HTML."""

from __future__ import annotations

import re
from html import escape

from lora2.experiments.rendering.lines import TEXT_COLUMNS, Line, heading, lines
from lora2.experiments.table import Table, TableRow


def html_table(table: Table) -> str:
    """Return a section with the name of the table as its id: title, table, notes."""
    parts = [
        f'<section id="{escape(table.name)}">',
        f"<h2>{escape(table.title)}</h2>",
        '<div class="wide"><table>',
        f"<thead><tr>{_heading(heading(table))}</tr></thead>",
        *map(_row, table.rows),
        "</table></div>",
    ]
    if table.notes:
        notes = (f"<li>{escape(note)}</li>" for note in table.notes)
        parts += ['<ul class="notes">', *notes, "</ul>"]
    return "\n".join((*parts, "</section>"))


def _heading(names: Line) -> str:
    texts = (f'<th scope="col">{escape(name)}</th>' for name in names[:TEXT_COLUMNS])
    numbers = (
        f'<th scope="col" class="number">{escape(name)}</th>' for name in names[TEXT_COLUMNS:]
    )
    return "".join((*texts, *numbers))


def _row(row: TableRow) -> str:
    first, *others = lines(row)
    # Method and setting stand once, beside all lines of the row.
    span = f'scope="rowgroup" rowspan="{1 + len(others)}"'
    name = "".join(f"<th {span}>{escape(text)}</th>" for text in first[:2])
    return "\n".join(("<tbody>", _line(first, name), *map(_line, others), "</tbody>"))


def _line(line: Line, before: str = "") -> str:
    _, _, kind, *numbers = line
    style = "-".join(re.findall("[a-z]+", kind))
    cells = "".join(f'<td class="number">{escape(number)}</td>' for number in numbers)
    return f'<tr class="{style}">{before}<th scope="row">{escape(kind)}</th>{cells}</tr>'
