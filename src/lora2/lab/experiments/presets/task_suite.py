"""What presets with tuned learning rates are made of: a model, its tasks, tables of settings."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from lora2.errors import UserError
from lora2.lab.experiments.description import RunDescription
from lora2.lab.experiments.presets.table_request import TableRequest
from lora2.lab.experiments.setting import Experiment, Setting
from lora2.lab.experiments.tables.grid import Column, Grid, Measure, Row
from lora2.lab.experiments.tables.paper_numbers import TABLE2, paper_rows

TUNING_SEED = 100
"""The first seed of all tuning runs; no table has it."""


class SettingsTable(NamedTuple):
    """A table of a preset.

    Attributes:
        title: what it shows.
        settings: its rows.
        tasks: its columns; all tasks unless given.
        note: a sentence below it.
        columns: other columns than the suite's.
        measures: more columns, behind the average.
    """

    title: str
    settings: tuple[Setting, ...]
    tasks: tuple[str, ...] | None = None
    note: str | None = None
    columns: tuple[Column, ...] | None = None
    measures: tuple[Measure, ...] = ()


@dataclass(frozen=True)
class TaskSuite:
    """A model, and the tasks on which settings are compared, each with options of its own.

    Attributes:
        model: as `lora2 train --model` takes it.
        label: the model as tables print it.
        note: a sentence about the model, in which {seeds} stands for the seeds.
        tasks: by name, the options of all runs on it.
        columns: of a table, from left to right.
    """

    model: str
    label: str
    note: str
    tasks: Mapping[str, Mapping[str, Any]]
    columns: tuple[Column, ...]

    def experiments(
        self, settings: Iterable[Setting], tasks: Collection[str] | None = None
    ) -> list[Experiment]:
        """Return every setting on every task, all unless given."""
        return [
            Experiment(self.model, task, setting, self.tasks[task])
            for setting in settings
            for task in (self.tasks if tasks is None else tasks)
        ]

    def grid(self, preset: str, table: SettingsTable, request: TableRequest) -> Grid:
        """Return a table of a preset at the learning rates that tuning chose.

        Where nothing was tuned, the usual learning rate of the method is used, and a note says so.

        Raises:
            UserError: another model is asked for.
        """
        self._check_model(preset, request.model)
        columns = tuple(
            column
            for column in table.columns or self.columns
            if table.tasks is None or column.task in table.tasks
        )
        rows = tuple(self._row(setting, columns, request) for setting in table.settings)
        seeds = ", ".join(map(str, request.seeds))
        notes = [self.note.format(seeds=seeds), *self._untuned_note(table, request)]
        if table.note:
            notes.append(table.note)
        title = f"{self.label}: {table.title}"
        return Grid(request.table, title, columns, rows, tuple(notes), table.measures)

    def timed(self, preset: str, setting: Setting, model: str) -> list[RunDescription]:
        """Return one run of a setting for each of the tasks that the paper's Table 2 has too.

        Raises:
            UserError: another model is asked for.
        """
        self._check_model(preset, model)
        return [
            each.run(setting.search.first, seed=0)
            for each in self.experiments([setting])
            if each.task in paper_rows(TABLE2)
        ]

    def _check_model(self, preset: str, model: str) -> None:
        if model != self.model:
            raise UserError(
                f"model: the preset {preset} is of {self.model}, not of {model}; leave the option "
                "out, or take --preset paper."
            )

    def _untuned_note(self, table: SettingsTable, request: TableRequest) -> Iterator[str]:
        searched = [setting for setting in table.settings if setting.rate is None]
        names = {each.tuned_name for each in self.experiments(searched, table.tasks)}
        untuned = sorted(names - request.choices.keys())
        if untuned:
            yield f"Not tuned, at the usual learning rate: {', '.join(untuned)}."

    def _row(self, setting: Setting, columns: Iterable[Column], request: TableRequest) -> Row:
        runs = {}
        for each in self.experiments([setting], dict.fromkeys(column.task for column in columns)):
            rate = _rate(each, request)
            runs[each.task] = tuple(each.run(rate, seed) for seed in request.seeds)
        return Row(setting.label, setting.method, setting.text, runs, cut=setting.cut)


def _rate(experiment: Experiment, request: TableRequest) -> float:
    setting = experiment.setting
    choice = request.choices.get(experiment.tuned_name)
    chosen = None if choice is None else choice.learning_rate
    return setting.rate or chosen or setting.search.first
