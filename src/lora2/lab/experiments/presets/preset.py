"""What a preset is: the tables that can be asked for, and the runs of each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lora2.lab.experiments.description import RunDescription
from lora2.lab.experiments.presets.table_request import TableRequest
from lora2.lab.experiments.presets.task_suite import TaskSuite
from lora2.lab.experiments.setting import Setting
from lora2.lab.experiments.tables.grid import Grid


@dataclass(frozen=True)
class Preset:
    """Runs of one size.

    Attributes:
        name: as users write it.
        note: what it runs, in a few words.
        model: the model unless another is asked for.
        seeds: the number of seeds, from 0, unless another is asked for.
        records: the preset in whose folder its records are, so that a run of both is made once.
        tables: names of its tables and figures.
        grid: returns what is asked for as data; a UserError says what of it cannot be had.
        timed: returns for a model one run a task, on whose batches Table 2 measures; None if the
            preset has no Table 2.
        step_times: the table whose rows' training steps are measured in turns; None if none are.
        suite: the model and tasks on which learning rates are searched; None if none are.
        tuned: the settings whose learning rate `lora2 tune` searches there.
    """

    name: str
    note: str
    model: str
    seeds: int
    records: str
    tables: tuple[str, ...]
    grid: Callable[[TableRequest], Grid]
    timed: Callable[[str], list[RunDescription]] | None = None
    step_times: str | None = None
    suite: TaskSuite | None = None
    tuned: tuple[Setting, ...] = ()
