"""Seconds of a training step of every row of a table, in turns on the same batches."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState

from lora2.lab.benchmarks.timing import Step, interleaved
from lora2.lab.benchmarks.workloads import Batch
from lora2.lab.experiments.description import RunDescription
from lora2.lab.experiments.measured.times import MeasuredTimes, read_times
from lora2.lab.experiments.running.execution import Place, settings_of
from lora2.lab.experiments.tables.grid import Grid
from lora2.training.methods.registry import METHODS
from lora2.training.prepare import prepare
from lora2.training.trainer.step_check import check_step

STEPS = "step-times"
"""The files of measured rows begin with it."""

# Fewer leave some methods no step in which to prune.
_FEWEST_STEPS = 8


def runs_to_time(grid: Grid) -> dict[str, dict[str, RunDescription]]:
    """Return one run of each row, by task and name of the row.

    A row that shows a cut trains as another row does.
    """
    return {
        task: {row.name: row.runs[task][0] for row in grid.rows if row.cut is None}
        for task in dict.fromkeys(column.task for column in grid.columns)
    }


def read_step_times(
    folder: Path, runs: Mapping[str, RunDescription], rounds: int = 1
) -> MeasuredTimes | None:
    """Return the times of all these rows on a task, None if so many rounds have not been measured.

    Raises:
        UserError: the file is damaged.
    """
    return read_times(folder, next(iter(runs.values())), rounds, runs, STEPS)


def measure_rows(
    runs: Mapping[str, RunDescription],
    place: Place,
    rounds: int,
    tick: Callable[[], object] = lambda: None,
) -> MeasuredTimes:
    """Train all rows in turns on the same batches, `rounds` steps each.

    A step is what `lora2 train` does in one: loss, gradients, their norm, optimizer, pruning. The
    schedule of pruning is that of a training of so many steps.

    runs: by name of the row, on one task.

    Raises:
        UserError: the data or a model cannot be had.
    """
    place.prepare_process()
    # One round more warms up.
    steps = max(rounds + 1, _FEWEST_STEPS)
    short = {
        name: replace(run, options={**run.options, "max_steps": steps})
        for name, run in runs.items()
    }
    trainers = {name: prepare(settings_of(run, place)).trainer for name, run in short.items()}
    first = next(iter(trainers.values()))
    batches = list(itertools.islice(first.get_train_dataloader(), steps))
    device = first.args.device.type
    seconds = interleaved(
        {
            name: whole_step(trainer, METHODS[runs[name].method].callbacks(), batches, steps)
            for name, trainer in trainers.items()
        },
        rounds=rounds,
        device=device,
        tick=tick,
    )
    batch_size = first.args.per_device_train_batch_size
    return MeasuredTimes.measured_here(
        next(iter(runs.values())), batch_size, seconds, device, STEPS
    )


def whole_step(
    trainer: Trainer, callbacks: Iterable[TrainerCallback], batches: Iterable[Batch], steps: int
) -> Step:
    """Return one optimizer step of a trainer whose training has not begun.

    Args:
        trainer: of a run.
        callbacks: those of its method.
        batches: each step takes the next, and the first again after the last.
        steps: of the whole training.
    """
    model: Any = trainer.model
    optimizer = trainer.create_optimizer()
    state, control = TrainerState(max_steps=steps), TrainerControl()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    following = itertools.cycle(batches)
    hooks = list(callbacks)

    def call(event: str) -> None:
        for hook in hooks:
            getattr(hook, event)(trainer.args, state, control, model=model, optimizer=optimizer)

    def step() -> None:
        model.train()
        batch = {name: value.to(model.device) for name, value in next(following).items()}
        loss: Any = trainer.compute_loss(model, batch)
        loss.backward()
        check_step(model, [loss], state.global_step + 1)
        torch.nn.utils.clip_grad_norm_(trained, trainer.args.max_grad_norm)
        call("on_pre_optimizer_step")
        optimizer.step()
        call("on_optimizer_step")
        optimizer.zero_grad()
        state.global_step += 1

    call("on_train_begin")
    return step
