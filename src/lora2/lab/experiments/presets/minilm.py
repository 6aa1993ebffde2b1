"""What the presets on MiniLM share: three tasks, and tables of settings at tuned learning rates."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from lora2.errors import UserError
from lora2.lab.experiments.description import RunDescription
from lora2.lab.experiments.grid import Column, Grid, Row
from lora2.lab.experiments.paper_numbers import paper_rows
from lora2.lab.experiments.presets.preset import Wanted
from lora2.lab.experiments.setting import Experiment, Setting

MODEL = "minilm"
SEEDS = 3
TUNING_SEED = 100
"""The seed of all tuning runs; no table has it."""

_COMMON: dict[str, Any] = {
    "head_start": "label_mean",
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 128,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0.06,
    "weight_decay": 0,
    # Half the padding, half the time.
    "train_sampling_strategy": "group_by_length",
    "eval_strategy": "steps",
    "logging_steps": 20,
}
# Four, four and two evaluations: of 504, 1,072 and 360 optimizer steps.
TASKS: Mapping[str, Mapping[str, Any]] = {
    "agreement": _COMMON | {"max_length": 64, "num_train_epochs": 8, "eval_steps": 126},
    "cola": _COMMON | {"max_length": 64, "num_train_epochs": 4, "eval_steps": 268},
    "stsb": _COMMON | {"max_length": 128, "num_train_epochs": 2, "eval_steps": 180},
}

COLUMNS = (
    Column("agreement_acc", "agreement (Acc)", "agreement", "accuracy"),
    Column("cola_mcc", "CoLA (Mcc)", "cola", "matthews_correlation"),
    Column("stsb_pearson", "STS-B (Pearson)", "stsb", "pearson"),
)


class SettingsTable(NamedTuple):
    """A table of a preset.

    Attributes:
        title: what it shows.
        settings: its rows.
        tasks: its columns; all tasks unless given.
        note: a sentence below it.
    """

    title: str
    settings: tuple[Setting, ...]
    tasks: tuple[str, ...] | None = None
    note: str | None = None


def experiments(
    settings: Iterable[Setting], tasks: Collection[str] | None = None
) -> list[Experiment]:
    """Return every setting on every task, all three unless given."""
    return [
        Experiment(MODEL, task, setting, TASKS[task])
        for setting in settings
        for task in (TASKS if tasks is None else tasks)
    ]


def grid(preset: str, table: SettingsTable, wanted: Wanted) -> Grid:
    """Return a table of a preset at the learning rates that tuning chose.

    Where nothing was tuned, the usual learning rate of the method is used, and a note says so.

    Raises:
        UserError: another model is asked for.
    """
    _check_model(preset, wanted.model)
    columns = tuple(
        column for column in COLUMNS if table.tasks is None or column.task in table.tasks
    )
    rows = tuple(_row(setting, columns, wanted) for setting in table.settings)
    notes = [_note(wanted.seeds), *_untuned_note(table, wanted)]
    if table.note:
        notes.append(table.note)
    return Grid(wanted.table, f"MiniLM-L6: {table.title}", columns, rows, tuple(notes))


def _check_model(preset: str, model: str) -> None:
    if model != MODEL:
        raise UserError(
            f"model: the preset {preset} is of {MODEL}, not of {model}; leave the option out, or "
            "take --preset paper."
        )


def _note(seeds: Iterable[int]) -> str:
    return (
        f"all-MiniLM-L6-v2, seeds {', '.join(map(str, seeds))}; the paper's numbers are of "
        "DeBERTaV3-base and are on another scale."
    )


def _untuned_note(table: SettingsTable, wanted: Wanted) -> Iterator[str]:
    names = {each.tuned_name for each in experiments(table.settings, table.tasks)}
    untuned = sorted(names - wanted.choices.keys())
    if untuned:
        yield f"Not tuned, at the usual learning rate: {', '.join(untuned)}."


def _row(setting: Setting, columns: Iterable[Column], wanted: Wanted) -> Row:
    runs = {}
    for each in experiments([setting], [column.task for column in columns]):
        choice = wanted.choices.get(each.tuned_name)
        chosen = None if choice is None else choice.learning_rate
        rate = setting.search.first if chosen is None else chosen
        runs[each.task] = tuple(each.run(rate, seed) for seed in wanted.seeds)
    return Row(setting.label, setting.method, setting.text, runs, cut=setting.cut)


def timed(preset: str, setting: Setting, model: str) -> list[RunDescription]:
    """Return one run of a setting for each of the tasks that the paper's Table 2 has too.

    Raises:
        UserError: another model is asked for.
    """
    _check_model(preset, model)
    return [
        each.run(setting.search.first, seed=0)
        for each in experiments([setting])
        if each.task in paper_rows("table2")
    ]
