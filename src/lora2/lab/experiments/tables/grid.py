"""A table as data, before anything has run: rows, columns, and the runs of each cell."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from lora2.lab.experiments.description import RunDescription
from lora2.lab.experiments.record import RunRecord


@dataclass(frozen=True)
class Column:
    """One number of a task.

    Attributes:
        name: key of the column in the paper's tables, such as "cola_mcc".
        label: as tables print it.
        task: the task whose runs it is computed from.
        metric: key of the runs' evaluations.
        scale: what a metric is multiplied by: 100 makes a percentage of a fraction.
        pair: columns with the same pair are averaged first when a row is averaged, as the paper
            does with QQP's accuracy and F1 and with MNLI's two sets; None for a column alone.
    """

    name: str
    label: str
    task: str
    metric: str
    scale: float = 100

    @property
    def is_percentage(self) -> bool:
        """Whether cells are percentages."""
        return self.scale == 100

    pair: str | None = None


@dataclass(frozen=True)
class Measure:
    """One more number of a row.

    Attributes:
        name: key of the column in files for programs.
        label: as tables print it, with its unit.
        of: the number of a run, which the table averages as the scores, over tasks and then seeds;
            None where its record has none.
        digits: decimals that are printed.
        by_row: the number of each row by its name, where it was not measured in the runs.
    """

    name: str
    label: str
    of: Callable[[RunRecord], float | None] = lambda record: None
    digits: int = 0
    by_row: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Row:
    """One method at one setting.

    Attributes:
        label: as tables print it.
        method: its name in the registry.
        setting: as the paper writes it, such as "k=1".
        runs: by task, one description a seed.
        paper: key of its row in the paper's table, None if the paper has no such row.
        cut: the size of its runs' cuts that it shows; None shows the adapters as they were trained.
    """

    label: str
    method: str
    setting: str
    runs: Mapping[str, tuple[RunDescription, ...]]
    paper: str | None = None
    cut: int | None = None

    @property
    def name(self) -> str:
        """Label and setting."""
        return f"{self.label} {self.setting}".strip()


@dataclass(frozen=True)
class Grid:
    """A table.

    Attributes:
        name: as users write it, such as "table1".
        title: what it shows.
        columns: from left to right.
        rows: from top to bottom.
        notes: sentences below it.
        measures: more columns, behind the average.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = field(default=())
    measures: tuple[Measure, ...] = ()

    def descriptions(self) -> Iterator[RunDescription]:
        """Yield every run, seed by seed, so that a table fills evenly."""
        runs = [row.runs.get(column.task, ()) for row in self.rows for column in self.columns]
        for seed in range(max(map(len, runs), default=0)):
            for of_cell in runs:
                if seed < len(of_cell):
                    yield of_cell[seed]
