"""A table as data, after runs: every number that a printed table holds."""

from __future__ import annotations

from dataclasses import dataclass

from lora2.lab.experiments.tables.averages import Estimate
from lora2.lab.experiments.tables.grid import Column, Measure, Row

# Further apart than rounding can explain.
_TOLERANCE = 0.01


@dataclass(frozen=True)
class Cell:
    """One number of a row, a percentage unless its column has another scale.

    Attributes:
        best: the best evaluation of each run, over seeds; None if no run has finished.
        last: the last evaluation of each run, likewise.
        paper: the paper's number.
        failed: runs that failed.
        missing: runs without a result: not yet run, or without this metric.
    """

    best: Estimate | None
    last: Estimate | None
    paper: float | None = None
    failed: int = 0
    missing: int = 0

    @property
    def difference(self) -> float | None:
        """The mean of the best evaluations minus the paper's number."""
        if self.best is None or self.paper is None:
            return None
        return self.best.mean - self.paper


@dataclass(frozen=True)
class Average(Cell):
    """The average of a row; `paper` is recomputed from the paper's entries in these columns.

    Attributes:
        as_printed: the average that the paper prints; None if it is over other columns.
    """

    as_printed: float | None = None

    @property
    def disagrees(self) -> bool:
        """Whether the paper prints another average than its entries give."""
        if self.paper is None or self.as_printed is None:
            return False
        return abs(self.as_printed - self.paper) > _TOLERANCE


@dataclass(frozen=True)
class Parameters:
    """Trained parameters of the adapter: smallest and largest number over the runs of a row.

    Attributes:
        initial: at the start; None if no run has finished.
        final: after pruning; None where nothing was pruned.
        paper: as the paper prints them.
        average: at the end, averaged as the scores are.
    """

    initial: tuple[int, int] | None
    final: tuple[int, int] | None
    paper: str | None
    average: Estimate | None = None


@dataclass(frozen=True)
class TableRow:
    """One row: what was run, and what came out; `measures` are those of the table."""

    row: Row
    parameters: Parameters
    cells: tuple[Cell, ...]
    average: Average
    measures: tuple[Estimate | None, ...] = ()

    @property
    def has_paper(self) -> bool:
        """Whether the paper has any number for this row."""
        numbers = [self.parameters.paper, self.average.as_printed]
        return any(number is not None for number in (*numbers, *(c.paper for c in self.cells)))


@dataclass(frozen=True)
class ResultTable:
    """A table; rows have one cell for each of its columns.

    Attributes:
        name: as users write it, such as "table1".
        title: what it shows.
        columns: from left to right, without the average.
        rows: from top to bottom.
        notes: sentences below it.
        measures: more columns, behind the average.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]
    notes: tuple[str, ...]
    measures: tuple[Measure, ...] = ()
