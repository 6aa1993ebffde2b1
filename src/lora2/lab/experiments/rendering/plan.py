"""The runs of a table before they are made, for a terminal or a pipe of a hundred columns.

What is the same in all lines is said once: for all runs, for a task, or for a row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from lora2.lab.experiments.dry_run import PlannedCell, PlannedRow
from lora2.lab.experiments.tables.grid import Grid
from lora2.training.options.method_arguments import METHOD_GROUPS

WIDTH = 100
"""The least width at which numbers stay in one line each."""

# They have columns of their own.
_SHOWN = ("learning_rate", "num_train_epochs")
_OF_METHODS = {field.name for group in METHOD_GROUPS for field in dataclasses.fields(group)}
_HEADING = ("task", "seeds", "done", "steps", "epochs", "rate", "parameters", "paper")

_Options = Mapping[str, Any]


def listing(grid: Grid, rows: Sequence[PlannedRow]) -> Iterator[RenderableType]:
    """Yield the parts of the listing, from top to bottom.

    Args:
        grid: the table.
        rows: its plan.
    """
    cells = [cell for row in rows for cell in row.cells]
    runs = sum(len(cell.seeds) for cell in cells)
    finished = sum(cell.finished for cell in cells)
    yield Text(f"{grid.name}, {grid.title}", style="bold")
    yield Text(
        f"{runs} runs, {finished} with a finished record. Parameters are the adapter's at the "
        "start, without the head; next to them what the paper prints.\n"
    )
    everywhere = _common([_of_training(cell) for cell in cells])
    by_task = {
        task: _common([_of_training(cell) for cell in cells if cell.task == task])
        for task in dict.fromkeys(cell.task for cell in cells)
    }
    yield Text(f"All runs: {_written(everywhere)}")
    yield _tasks(cells, {task: _without(each, everywhere) for task, each in by_task.items()})
    for row in rows:
        yield from _row(row, by_task)
    yield from (Text(f"\n{note}") for note in grid.notes)


def _tasks(cells: Sequence[PlannedCell], options: Mapping[str, _Options]) -> Table:
    table = _table(("task", "training rows"))
    rows = {cell.task: cell.rows for cell in cells}
    for task, of_task in options.items():
        table.add_row(task, f"{rows[task]:,}", Text(_written(of_task)))
    return table


def _row(row: PlannedRow, by_task: Mapping[str, _Options]) -> Iterator[RenderableType]:
    own = [_without(cell.options, by_task[cell.task], _SHOWN) for cell in row.cells]
    common = _common([{n: v for n, v in each.items() if n in _OF_METHODS} for each in own])
    yield Text(f"\n{row.name}", style="bold")
    if row.paper and row.counted_after_pruning:
        yield Text(f"The paper's {row.paper} is counted after pruning.")
    if common:
        yield Text(f"All tasks: {_written(common)}")
    table = _table(_HEADING)
    for cell, options in zip(row.cells, own, strict=True):
        table.add_row(*_numbers(cell, row.paper), Text(_written(_without(options, common))))
    yield table


def _numbers(cell: PlannedCell, paper: str | None) -> tuple[str, ...]:
    failed = f", {cell.failed} failed" if cell.failed else ""
    return (
        cell.task,
        _extent(cell.seeds),
        f"{cell.finished} of {len(cell.seeds)}{failed}",
        f"{cell.steps:,}",
        f"{cell.options['num_train_epochs']:g}",
        f"{cell.options['learning_rate']:g}",
        f"{cell.parameters:,}",
        paper or "–",
    )


def _table(heading: Sequence[str]) -> Table:
    """Return a table whose last column, of options, is folded and all others are not."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, name in enumerate(heading):
        table.add_column(name, justify="right" if index else "left", no_wrap=True)
    table.add_column("", overflow="fold")
    return table


def _of_training(cell: PlannedCell) -> _Options:
    return {
        name: value
        for name, value in cell.options.items()
        if name not in _OF_METHODS and name not in _SHOWN
    }


def _common(all_options: Sequence[_Options]) -> _Options:
    """Return the options that all have with the same value."""
    if not all_options:
        return {}
    first, *others = all_options
    return {
        name: value
        for name, value in first.items()
        if all(name in other and other[name] == value for other in others)
    }


def _without(options: _Options, *said: _Options | Sequence[str]) -> _Options:
    names = {name for each in said for name in each}
    return {name: value for name, value in options.items() if name not in names}


def _written(options: _Options) -> str:
    return " ".join(f"{name}={_value(value)}" for name, value in options.items())


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _extent(seeds: Sequence[int]) -> str:
    first, last = seeds[0], seeds[-1]
    if seeds == tuple(range(first, last + 1)) and len(seeds) > 1:
        return f"{first}–{last}"
    return ",".join(map(str, seeds))
