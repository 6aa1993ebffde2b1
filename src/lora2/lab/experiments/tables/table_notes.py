"""The sentences below a table that follow from what is in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lora2.lab.experiments.record import RunRecord
from lora2.lab.experiments.tables.averages import pairs
from lora2.lab.experiments.tables.grid import Column
from lora2.lab.experiments.tables.paper_numbers import PaperRow
from lora2.lab.experiments.tables.printed_numbers import printed
from lora2.lab.experiments.tables.table import TableRow

_CELLS = "Cells: mean ± sample standard deviation over seeds (number of seeds)"
_READING = (
    "Best: of each run, the evaluation with the highest main metric; last: its last evaluation."
)

_PACKAGES = ("lora2", "torch", "transformers", "peft")


def table_notes(
    columns: Sequence[Column],
    rows: Sequence[TableRow],
    paper: Sequence[PaperRow],
    records: Sequence[RunRecord | None],
) -> list[str]:
    """Return how to read the table, then what its numbers do not say themselves.

    Args:
        columns: of the table.
        rows: of the table.
        paper: the row of the paper for each row.
        records: of all runs, None for those without one.
    """
    return [
        f"{_CELLS}{', in %' if all(each.is_percentage for each in columns) else ''}. {_READING}",
        *_pairs_first(columns),
        *_fewer_columns(rows, paper),
        *_disagreements(rows),
        *_after_pruning(rows, paper),
        *_unfinished(records),
        *_versions(records),
    ]


def _pairs_first(columns: Sequence[Column]) -> Iterator[str]:
    names = [" and ".join(column.label for column in pair) for pair in pairs(columns)]
    if names:
        yield f"Average: {'; '.join(names)} are averaged first, as in the paper."


def _fewer_columns(rows: Sequence[TableRow], paper: Sequence[PaperRow]) -> Iterator[str]:
    for row, theirs in zip(rows, paper, strict=True):
        if theirs.average is not None and row.average.as_printed is None:
            yield (
                "The paper's printed averages are over more columns; next to ours are averages of "
                "its entries in the columns shown."
            )
            return


def _disagreements(rows: Sequence[TableRow]) -> Iterator[str]:
    for row in rows:
        average = row.average
        if average.disagrees and average.as_printed is not None and average.paper is not None:
            yield (
                f"{row.row.name}: the paper prints the average {printed(average.as_printed)}, its "
                f"own entries give {printed(average.paper)}; the difference is to the latter."
            )


def _after_pruning(rows: Sequence[TableRow], paper: Sequence[PaperRow]) -> Iterator[str]:
    names = [
        f"{row.row.name} ({theirs.parameters})"
        for row, theirs in zip(rows, paper, strict=True)
        if theirs.counted_after_pruning and theirs.parameters
    ]
    if names:
        yield f"The paper counts parameters after pruning for {', '.join(names)}."


def _unfinished(records: Sequence[RunRecord | None]) -> Iterator[str]:
    missing = records.count(None)
    finished = sum(record is not None and record.finished for record in records)
    if finished < len(records):
        failed = len(records) - missing - finished
        yield (
            f"Of {len(records)} runs, {finished} are finished, {failed} failed and {missing} are "
            "missing."
        )


def _versions(records: Sequence[RunRecord | None]) -> Iterator[str]:
    made_with = {
        ", ".join(
            f"{name} {record.versions[name]}" for name in _PACKAGES if name in record.versions
        )
        for record in records
        if record is not None and record.finished
    }
    if any(made_with):
        yield f"Runs made with {'; '.join(sorted(made_with))}."
