"""The runs of a table before they are made: what each trains, how long, and which are done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel

from lora2.data.public.glue import TRAIN_ROWS
from lora2.lab.experiments.description import RunDescription
from lora2.lab.experiments.running.execution import Place
from lora2.lab.experiments.running.feasibility import (
    checked_settings,
    checked_steps,
    empty_model,
    naming,
)
from lora2.lab.experiments.tables.grid import Grid, Row
from lora2.lab.experiments.tables.paper_numbers import paper_rows
from lora2.lab.experiments.tables.summary import Find
from lora2.training.base_models.models import config_of_sizes
from lora2.training.methods.registry import METHODS
from lora2.training.objectives.registry import objective_of
from lora2.training.options.arguments import RunSettings

# Nothing is written, so that any folder will do.
_NOWHERE = Place(Path())


@dataclass(frozen=True)
class PlannedCell:
    """The runs of a row on one task, which differ in their seeds alone.

    Attributes:
        task: name of the task.
        seeds: one a run.
        options: of `lora2 train`, as described.
        rows: training rows.
        steps: optimizer steps of one run.
        parameters: trained parameters of the adapter at the start, by the method's formula.
        finished: runs with a finished record.
        failed: runs with the record of a failure.
    """

    task: str
    seeds: tuple[int, ...]
    options: Mapping[str, Any]
    rows: int
    steps: int
    parameters: int
    finished: int
    failed: int


@dataclass(frozen=True)
class PlannedRow:
    """A row of the table.

    Attributes:
        name: label and setting.
        cells: one a task.
        paper: the number of parameters that the paper prints.
        counted_after_pruning: whether the paper counts what pruning left.
    """

    name: str
    cells: tuple[PlannedCell, ...]
    paper: str | None
    counted_after_pruning: bool


def plan(grid: Grid, find: Find) -> tuple[PlannedRow, ...]:
    """Return the rows of a grid, without data, weights or anything written.

    Raises:
        UserError: a run that could not be made, such as one shorter than its schedule.
    """
    printed = paper_rows(grid.name)
    tasks = dict.fromkeys(column.task for column in grid.columns)
    config_of = cache(config_of_sizes)
    # All cells share a model, since counting does not change it.
    model_of = cache(lambda name, objective: empty_model(config_of(name), objective))

    def cell(runs: tuple[RunDescription, ...]) -> PlannedCell:
        with naming(runs[0]):
            settings = checked_settings(runs[0], _NOWHERE)
        name = settings.model.model
        return _cell(runs, settings, config_of(name), model_of(name, settings.objective), find)

    def planned(row: Row) -> PlannedRow:
        cells = tuple(cell(runs) for task in tasks if (runs := row.runs.get(task, ())))
        paper = printed.get(row.paper or "")
        if paper is None:
            return PlannedRow(row.name, cells, None, False)
        return PlannedRow(row.name, cells, paper.parameters, paper.counted_after_pruning)

    return tuple(planned(row) for row in grid.rows)


def _cell(
    runs: tuple[RunDescription, ...],
    settings: RunSettings,
    config: PretrainedConfig,
    model: PreTrainedModel,
    find: Find,
) -> PlannedCell:
    first = runs[0]
    rows = _training_rows(settings)
    with naming(first):
        steps = checked_steps(settings, rows, config)
    records = [record for record in map(find, runs) if record is not None]
    finished = sum(record.finished for record in records)
    return PlannedCell(
        task=first.task,
        seeds=tuple(run.seed for run in runs),
        options=first.options,
        rows=rows,
        steps=steps,
        parameters=METHODS[first.method].count(model, settings.adapter),
        finished=finished,
        failed=len(records) - finished,
    )


def _training_rows(settings: RunSettings) -> int:
    if "train_rows" in objective_of(settings).options:
        return settings.text.train_rows
    task = settings.data.task or ""
    return TRAIN_ROWS.get(task, settings.data.train_sentences)
