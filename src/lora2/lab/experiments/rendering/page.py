"""One page of HTML that holds everything it shows."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from lora2.lab.experiments.rendering.html_table import html_table
from lora2.lab.experiments.rendering.printout import Printout

_STYLE = """
body { max-width: 84rem; margin: 2rem auto; padding: 0 1rem; background: #fff; color: #1a1a1a;
  font: 16px/1.5 system-ui, sans-serif; }
h1, h2 { line-height: 1.2; }
h2 { margin-top: 3rem; font-size: 1.25rem; }
nav { columns: 2 26rem; }
nav a { display: block; break-inside: avoid; }
a { color: #1a4f8a; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
th, td { padding: .15rem .6rem; text-align: left; vertical-align: top; font-weight: normal; }
thead th { border-bottom: 2px solid #333; font-weight: 600; }
tbody { border-bottom: 1px solid #bbb; }
th[scope=rowgroup] { font-weight: 600; }
.number { text-align: right; }
.best td { font-weight: 600; }
.paper, .best-paper, .not-finished { color: #555; }
.notes { max-width: 60rem; padding-left: 1.2rem; color: #444; font-size: .875rem; }
figure { margin: 0; }
figure img { max-width: 100%; height: auto; }
""".strip()


@dataclass(frozen=True)
class PageFigure:
    """A figure of a page.

    Attributes:
        name: its id on the page, such as "figure3".
        title: what it shows.
        png: the picture.
    """

    name: str
    title: str
    png: bytes


def render_page(title: str, tables: Sequence[Printout], figures: Sequence[PageFigure]) -> str:
    """Return the page; each table and figure has its name as the id of its element."""
    shown: list[Printout | PageFigure] = [*tables, *figures]
    links = "\n".join(f'<a href="#{escape(part.name)}">{escape(part.title)}</a>' for part in shown)
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>",
        f"<style>\n{_STYLE}\n</style>",
        "</head>",
        "<body>",
        f"<h1>{escape(title)}</h1>",
        f"<nav>\n{links}\n</nav>",
        *map(html_table, tables),
        *map(_figure, figures),
        "</body>",
        "</html>",
    ]
    return "\n".join(lines) + "\n"


def _figure(figure: PageFigure) -> str:
    picture = base64.b64encode(figure.png).decode("ascii")
    return "\n".join(
        [
            f'<figure id="{escape(figure.name)}">',
            f"<h2>{escape(figure.title)}</h2>",
            f'<img alt="{escape(figure.title)}" src="data:image/png;base64,{picture}">',
            "</figure>",
        ]
    )
