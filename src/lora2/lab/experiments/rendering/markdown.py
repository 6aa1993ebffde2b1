"""A table as Markdown, with pipes."""

from __future__ import annotations

import re
from collections.abc import Iterable

from lora2.lab.experiments.rendering.printout import Printout

# An ampersand matters only where it would begin an entity.
_SPECIAL = re.compile(r"[\\`*_\[\]<>|~]|&(?=#?\w+;)")


def render(table: Printout) -> str:
    """Return a heading, the table and its notes."""
    alignment = [":--" if x < table.texts else "--:" for x in range(len(table.heading))]
    parts = [
        f"## {_escaped(table.title)}",
        "",
        _line(map(_escaped, table.heading)),
        _line(alignment),
        *(_line(map(_escaped, line)) for group in table.groups for line in group),
    ]
    if table.notes:
        parts += ["", *(f"- {_escaped(note)}" for note in table.notes)]
    return "\n".join(parts) + "\n"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(text: str) -> str:
    # A line break would end the row.
    return _SPECIAL.sub(r"\\\g<0>", " ".join(text.split()))
