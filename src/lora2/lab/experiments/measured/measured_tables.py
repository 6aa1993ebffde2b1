"""The tables that are measured in turns, not made from runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora2.lab.experiments.description import RunDescription
from lora2.lab.experiments.measured.iteration_table import iteration_table
from lora2.lab.experiments.measured.iteration_times import (
    TIMED_METHODS,
    measure,
    read_iteration_times,
)
from lora2.lab.experiments.measured.step_table import step_table
from lora2.lab.experiments.measured.step_times import measure_rows, read_step_times, runs_to_time
from lora2.lab.experiments.measured.times import MeasuredTimes
from lora2.lab.experiments.rendering.printout import Printout
from lora2.lab.experiments.reproduction import STEP_TIMES, ReproduceArguments
from lora2.lab.experiments.running.execution import Place
from lora2.lab.experiments.tables.paper_numbers import TABLE2


@dataclass(frozen=True)
class MeasuredTable:
    """A table of times, one task measured after the other.

    Attributes:
        tasks: takes the options and the folder of records, and returns one part for each task:
            what `methods`, `read` and `measure` take.
        methods: takes a task's part, and returns how many methods take turns on it.
        read: takes the folder, a task's part and rounds; None if not so many were measured.
        measure: takes a task's part, the place, rounds, and what is called after every step.
        table: the table of what was measured.
    """

    tasks: Callable[[ReproduceArguments, Path], Sequence[Any]]
    methods: Callable[[Any], int]
    read: Callable[[Path, Any, int], MeasuredTimes | None]
    measure: Callable[[Any, Place, int, Callable[[], object]], MeasuredTimes]
    table: Callable[[Sequence[MeasuredTimes]], Printout]

    def missing(self, options: ReproduceArguments, folder: Path) -> list[Any]:
        """Return the parts of which fewer rounds than the options want were measured."""
        tasks = self.tasks(options, folder)
        return [each for each in tasks if self.read(folder, each, options.rounds) is None]

    def measured(self, options: ReproduceArguments, folder: Path) -> list[MeasuredTimes]:
        """Return what was measured, by any number of rounds.

        Raises:
            UserError: a file of it is damaged.
        """
        found = (self.read(folder, each, 1) for each in self.tasks(options, folder))
        return [times for times in found if times is not None]


def _iterations(options: ReproduceArguments) -> list[RunDescription]:
    timed = options.chosen.timed
    return [] if timed is None else timed(options.model or options.chosen.model)


def _rows(options: ReproduceArguments, folder: Path) -> list[dict[str, RunDescription]]:
    name = options.chosen.step_times
    if name is None:
        return []
    return list(runs_to_time(options.chosen.grid(options.request(name, folder))).values())


MEASURED_TABLES = {
    TABLE2: MeasuredTable(
        lambda options, folder: _iterations(options),
        lambda run: len(TIMED_METHODS),
        read_iteration_times,
        measure,
        iteration_table,
    ),
    STEP_TIMES: MeasuredTable(_rows, len, read_step_times, measure_rows, step_table),
}
"""By name."""
