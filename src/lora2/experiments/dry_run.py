"""The runs of a table before they are made: hyperparameters, parameters, and which are done."""

from __future__ import annotations

from rich.table import Table

from lora2.experiments.grid import Grid
from lora2.experiments.record import RecordFolder


def dry_run_table(grid: Grid, records: RecordFolder) -> Table:
    """Return one line a cell of the grid."""
    table = Table(title=grid.title)
    table.add_column("run")
    return table
