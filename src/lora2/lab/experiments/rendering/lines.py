"""What the tables for people hold, as plain text: the same lines in every format."""

from __future__ import annotations

from collections.abc import Sequence

from lora2.lab.experiments.tables.averages import Estimate
from lora2.lab.experiments.tables.grid import Measure
from lora2.lab.experiments.tables.printed_numbers import printed, signed
from lora2.lab.experiments.tables.table import Average, Cell, Parameters, ResultTable, TableRow

NOTHING = "–"

Line = tuple[str, ...]


def heading(table: ResultTable) -> Line:
    """Return the names of the columns."""
    columns = (column.label for column in table.columns)
    measures = (measure.label for measure in table.measures)
    return ("method", "setting", "", "parameters", *columns, "average", *measures)


def lines(row: TableRow, measures: Sequence[Measure] = ()) -> list[Line]:
    """Return the lines of a row: best, last, what is not finished, the paper, the difference."""
    parts = (*row.cells, row.average)
    found = [
        (row.row.label, row.row.setting, "best", _counts(row.parameters), *_each(parts, "best")),
        ("", "", "last", "", *_each(parts, "last")),
    ]
    if any(_begun(cell) for cell in row.cells):
        unfinished = (_unfinished(cell) for cell in row.cells)
        found.append(("", "", "not finished", "", *unfinished, ""))
    if row.has_paper:
        entries = (_number(cell.paper) for cell in row.cells)
        counted = row.parameters.paper or NOTHING
        found.append(("", "", "paper", counted, *entries, _paper_average(row.average)))
    if any(part.difference is not None for part in parts):
        differences = (_difference(part) for part in parts)
        found.append(("", "", "best − paper", "", *differences))
    first, *others = found
    # Measures are of whole runs, and are written once.
    measured = (_measure(*pair) for pair in zip(measures, row.measures, strict=True))
    blank = ("",) * len(measures)
    return [(*first, *measured), *((*line, *blank) for line in others)]


def _each(parts: tuple[Cell, ...], which: str) -> list[str]:
    return [_estimate(part.best if which == "best" else part.last) for part in parts]


def _estimate(estimate: Estimate | None) -> str:
    if estimate is None:
        return NOTHING
    deviation = "" if estimate.deviation is None else f" ± {printed(estimate.deviation)}"
    return f"{printed(estimate.mean)}{deviation} ({estimate.count})"


def _measure(measure: Measure, estimate: Estimate | None) -> str:
    return NOTHING if estimate is None else f"{estimate.mean:,.{measure.digits}f}"


def _number(value: float | None) -> str:
    return NOTHING if value is None else printed(value)


def _difference(cell: Cell) -> str:
    return NOTHING if cell.difference is None else signed(cell.difference)


def _paper_average(average: Average) -> str:
    if average.disagrees:
        return f"{_number(average.as_printed)}, entries {_number(average.paper)}"
    return _number(average.paper if average.as_printed is None else average.as_printed)


def _counts(parameters: Parameters) -> str:
    if parameters.initial is None:
        return NOTHING
    initial = _extent(parameters.initial)
    return initial if parameters.final is None else f"{initial} → {_extent(parameters.final)}"


def _extent(extent: tuple[int, int]) -> str:
    smallest, largest = extent
    return f"{smallest:,}" if smallest == largest else f"{smallest:,}–{largest:,}"


def _begun(cell: Cell) -> bool:
    """Whether a run has failed, or some have ended and others have not."""
    return cell.failed > 0 or (cell.best is not None and cell.missing > 0)


def _unfinished(cell: Cell) -> str:
    counts = ((cell.failed, "failed"), (cell.missing, "missing"))
    return ", ".join(f"{count} {what}" for count, what in counts if count)
