"""Presets at learning rates that `lora2 tune` chose, on one model and its tasks."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from lora2.lab.experiments.presets.preset import Preset
from lora2.lab.experiments.presets.table_request import TableRequest
from lora2.lab.experiments.presets.task_suite import SettingsTable, TaskSuite
from lora2.lab.experiments.setting import Setting
from lora2.lab.experiments.tables.grid import Grid

SEEDS = 3


def tuned_preset(
    name: str,
    note: str,
    suite: TaskSuite,
    tables: Mapping[str, SettingsTable],
    tuned: tuple[Setting, ...],
    timed: Setting | None = None,
    step_times: str | None = None,
    records: str | None = None,
) -> Preset:
    """Return a preset of a suite; it refuses another model than the suite's.

    Args:
        name: as users write it.
        note: what it runs, in a few words.
        suite: the model and its tasks.
        tables: by name.
        tuned: the settings whose learning rate is searched.
        timed: the setting that Table 2 measures; None if the preset has no Table 2.
        step_times: the table whose rows' training steps are measured; None if none are.
        records: the preset in whose folder its records are; its own unless given.
    """

    def grid(request: TableRequest) -> Grid:
        return suite.grid(name, tables[request.table], request)

    return Preset(
        name=name,
        note=note,
        model=suite.model,
        seeds=SEEDS,
        records=records or name,
        tables=tuple(tables),
        grid=grid,
        timed=None if timed is None else partial(suite.timed, name, timed),
        step_times=step_times,
        suite=suite,
        tuned=tuned,
    )
