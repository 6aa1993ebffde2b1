"""A table as HTML."""

from __future__ import annotations

import re
from html import escape

from lora2.lab.experiments.rendering.lines import Line
from lora2.lab.experiments.rendering.printout import Printout


def html_table(table: Printout) -> str:
    """Return a section with the name of the table as its id: title, table, notes."""
    parts = [
        f'<section id="{escape(table.name)}">',
        f"<h2>{escape(table.title)}</h2>",
        '<div class="wide"><table>',
        f"<thead><tr>{_heading(table)}</tr></thead>",
        *(_group(table, group) for group in table.groups),
        "</table></div>",
    ]
    if table.notes:
        notes = (f"<li>{escape(note)}</li>" for note in table.notes)
        parts += ['<ul class="notes">', *notes, "</ul>"]
    return "\n".join((*parts, "</section>"))


def _heading(table: Printout) -> str:
    texts = (f'<th scope="col">{escape(name)}</th>' for name in table.heading[: table.texts])
    numbers = (
        f'<th scope="col" class="number">{escape(name)}</th>'
        for name in table.heading[table.texts :]
    )
    return "".join((*texts, *numbers))


def _group(table: Printout, group: tuple[Line, ...]) -> str:
    # What names the group is written once, next to all its lines.
    span = f'scope="rowgroup" rowspan="{len(group)}"'
    name = "".join(f"<th {span}>{escape(text)}</th>" for text in group[0][: table.names])
    first, *others = group
    lines = (_line(table, first, name), *(_line(table, line) for line in others))
    return "\n".join(("<tbody>", *lines, "</tbody>"))


def _line(table: Printout, line: Line, before: str = "") -> str:
    kinds = line[table.names : table.texts]
    style = "-".join(re.findall("[a-z]+", " ".join(kinds)))
    heads = "".join(f'<th scope="row">{escape(kind)}</th>' for kind in kinds)
    numbers = "".join(f'<td class="number">{escape(number)}</td>' for number in line[table.texts :])
    return f'<tr class="{style}">{before}{heads}{numbers}</tr>'
