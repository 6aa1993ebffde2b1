"""Records → table: means and deviations over seeds, next to the paper's numbers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

from lora2.lab.experiments.description import RunDescription
from lora2.lab.experiments.record import RunRecord
from lora2.lab.experiments.tables.averages import Estimate, averages_by_seed, estimate, row_average
from lora2.lab.experiments.tables.grid import Column, Grid, Measure, Row
from lora2.lab.experiments.tables.paper_numbers import PaperRow, paper_rows
from lora2.lab.experiments.tables.table import Average, Cell, Parameters, ResultTable, TableRow
from lora2.lab.experiments.tables.table_notes import table_notes

Find = Callable[[RunDescription], RunRecord | None]
"""Finds the record of a run: `RecordFolder(path).find`, or `records.get` of a dictionary."""

_Records = Mapping[RunDescription, RunRecord | None]
_Values = dict[str, dict[int, float]]
_NumberOf = Callable[[RunRecord, Column], float | None]

_NOT_IN_PAPER = PaperRow({}, None, None, False)


def summarize(grid: Grid, find: Find, paper: Mapping[str, PaperRow] | None = None) -> ResultTable:
    """Return the table of a grid, as far as its runs have come.

    Args:
        grid: what was to be run.
        find: finds the record of a run.
        paper: the rows that `Row.paper` names; those of the paper's table with the grid's name
            unless given.
    """
    printed = paper_rows(grid.name) if paper is None else paper
    records = {run: find(run) for run in dict.fromkeys(grid.descriptions())}
    theirs = [printed[row.paper] if row.paper else _NOT_IN_PAPER for row in grid.rows]
    rows = tuple(
        _row(row, grid, records, numbers) for row, numbers in zip(grid.rows, theirs, strict=True)
    )
    notes = table_notes(grid.columns, rows, theirs, list(records.values()))
    said = (*grid.notes, *notes)
    return ResultTable(grid.name, grid.title, grid.columns, rows, said, grid.measures)


def _row(row: Row, grid: Grid, records: _Records, paper: PaperRow) -> TableRow:
    columns = grid.columns
    best = _values(row, columns, records, _shown(row, "best"))
    last = _values(row, columns, records, _shown(row, "last"))
    return TableRow(
        row=row,
        parameters=_parameters(row, columns, records, paper),
        cells=tuple(
            _cell(
                [records[run] for run in row.runs.get(column.task, ())],
                best[column.name].values(),
                last[column.name].values(),
                paper.values.get(column.name),
            )
            for column in columns
        ),
        average=Average(
            best=estimate(averages_by_seed(best, columns).values()),
            last=estimate(averages_by_seed(last, columns).values()),
            paper=_recomputed(columns, paper),
            as_printed=_as_printed(columns, paper),
        ),
        measures=tuple(_measured(measure, row, columns, records) for measure in grid.measures),
    )


def _shown(row: Row, which: str) -> _NumberOf:
    """Return what gives the score of a run in a column, or of its cut where the row shows one.

    which: the evaluation, "best" or "last".
    """

    def score(record: RunRecord, column: Column) -> float | None:
        metrics = getattr(record, which) if row.cut is None else record.cut(row.cut)
        value = (metrics or {}).get(column.metric)
        return None if value is None else column.scale * value

    return score


def _values(
    row: Row, columns: Sequence[Column], records: _Records, number_of: _NumberOf
) -> _Values:
    """Return a number of each run that has it, by column and seed."""
    found: _Values = {column.name: {} for column in columns}
    for column in columns:
        for record in _finished(row.runs.get(column.task, ()), records):
            value = number_of(record, column)
            if value is not None:
                found[column.name][record.description.seed] = value
    return found


def _averaged(
    row: Row,
    columns: Sequence[Column],
    records: _Records,
    number: Callable[[RunRecord], float | None],
) -> Estimate | None:
    """Average a number of the runs as a score is averaged: over the tasks, then over the seeds.

    A mean over all runs would give a task with more of them more weight.
    """
    found = _values(row, columns, records, lambda record, _: number(record))
    return estimate(averages_by_seed(found, columns).values())


def _finished(runs: Sequence[RunDescription], records: _Records) -> list[RunRecord]:
    found = (records[run] for run in runs)
    return [record for record in found if record is not None and record.finished]


def _cell(
    records: Sequence[RunRecord | None],
    best: Collection[float],
    last: Collection[float],
    paper: float | None,
) -> Cell:
    failed = sum(record is not None and not record.finished for record in records)
    return Cell(
        best=estimate(best),
        last=estimate(last),
        paper=paper,
        failed=failed,
        missing=len(records) - failed - len(best),
    )


def _all_finished(row: Row, columns: Sequence[Column], records: _Records) -> list[RunRecord]:
    tasks = dict.fromkeys(column.task for column in columns)
    return _finished([run for task in tasks for run in row.runs.get(task, ())], records)


def _measured(
    measure: Measure, row: Row, columns: Sequence[Column], records: _Records
) -> Estimate | None:
    if measure.by_row is not None:
        return estimate([measure.by_row[row.name]] if row.name in measure.by_row else [])
    # A cut has been scored, and nothing else of it was measured.
    return None if row.cut is not None else _averaged(row, columns, records, measure.of)


def _parameters(
    row: Row, columns: Sequence[Column], records: _Records, paper: PaperRow
) -> Parameters:
    counts = [
        (record.trainable_parameters["adapter"], left)
        for record in _all_finished(row, columns, records)
        if (left := _final_parameters(row, record)) is not None
    ]
    if not counts:
        return Parameters(None, None, paper.parameters)
    initial = [trained for trained, _ in counts]
    final = [left for _, left in counts]
    return Parameters(
        initial=(min(initial), max(initial)),
        # Runs are compared one by one: extents may agree although some run was pruned.
        final=None if initial == final else (min(final), max(final)),
        paper=paper.parameters,
        average=_averaged(row, columns, records, partial(_final_parameters, row)),
    )


def _final_parameters(row: Row, record: RunRecord) -> int | None:
    # A method without an adapter may count none.
    if not {"adapter"} <= record.trainable_parameters.keys() & record.final_parameters.keys():
        return None
    if row.cut is not None:
        cut: int = record.cut(row.cut)["parameters"]
        return cut
    return record.final_parameters["adapter"]


def _recomputed(columns: Sequence[Column], paper: PaperRow) -> float | None:
    entries = {column.name: paper.values.get(column.name) for column in columns}
    known = {name: value for name, value in entries.items() if value is not None}
    return row_average(known, columns) if known and len(known) == len(entries) else None


def _as_printed(columns: Sequence[Column], paper: PaperRow) -> float | None:
    # An average over more columns than these is no number to compare theirs with.
    return paper.average if paper.values.keys() <= {column.name for column in columns} else None
