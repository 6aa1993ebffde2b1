"""Tables in narrow consoles: every figure is there, and no line is longer than the console."""

from io import StringIO

from rich.cells import cell_len
from rich.table import Table

from lora2.reports.console import new_console, print_table


def printed(table: Table, width: int) -> str:
    """What a command prints of a table on a console of this width."""
    console = new_console(width=width)
    console.file = StringIO()
    print_table(console, table)
    return console.file.getvalue()


def check_figures(table: Table, width: int) -> None:
    """Check that all words of columns of figures are printed, each in one piece."""
    text = printed(table, width)
    assert "…" not in text
    assert max(map(cell_len, text.splitlines())) <= width
    words = text.split()
    for column in table.columns:
        if column.justify == "right":
            for cell in column.cells:
                assert all(word in words for word in str(cell).split()), (cell, text)
