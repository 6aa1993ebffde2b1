"""`lora2 train`: one training run into a run folder."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

from rich.console import Console

from lora2.commands.parser import TrainParser
from lora2.errors import UserError
from lora2.reports.progress import watch_progress
from lora2.reports.tables import plan_table, summary_table
from lora2.support.files import write_json_atomically
from lora2.support.heap import keep_freed_memory
from lora2.training.arguments import RunSettings
from lora2.training.checkpoints import newest_complete
from lora2.training.methods.registry import METHODS
from lora2.training.prepare import PreparedRun, prepare
from lora2.training.recipes import recipe
from lora2.training.run import (
    command_to_start_over,
    run,
    start_folder,
    train_head_alone,
    write_environment,
)
from lora2.training.run_folder import RunFolder

# How a run starts, as against what it is.
_STARTS = ("resume", "overwrite", "output_dir")
# What changes nothing of what a run computes, and may change when it goes on.
_OF_THE_MACHINE = (
    "dataloader_num_workers", "dataloader_pin_memory", "dataloader_prefetch_factor",
    "dataloader_persistent_workers", "report_to", "run_name", "logging_first_step", "ddp_timeout",
    "ddp_backend", "log_level", "log_level_replica", "project", "torch_empty_cache_steps",
    "eval_accumulation_steps", "skip_memory_metrics", "save_total_limit",
)  # fmt: skip


def execute(arguments: Sequence[str]) -> int:
    """Run the subcommand and return the exit code."""
    settings = resolve(TrainParser(), arguments)
    folder = RunFolder(settings.folder)
    console = Console(soft_wrap=False)
    if settings.run.resume:
        summary = folder.read_summary()
        if summary is not None:
            console.print(f"The run in {folder.path} is finished already.", soft_wrap=True)
            console.print(summary_table(summary))
            return 0
    elif _is_first_process():
        folder.check_may_start(settings.run.overwrite)
    if settings.run.resume:
        _check_resumes(settings, folder)
    keep_freed_memory()
    prepared = prepare(settings)
    console = Console(quiet=not prepared.trainer.is_world_process_zero())
    console.print(plan_table(prepared))
    with folder.held() if _is_first_process() else nullcontext():
        if _is_first_process():
            _check_as_before(settings, folder)
        if settings.run.resume:
            _tell_where_it_resumes(console, folder)
            write_environment(prepared)
        else:
            start_folder(prepared)
        # The others look for checkpoints in the folder; the first may just be clearing it.
        prepared.trainer.accelerator.wait_for_everyone()
        baseline = _baseline(prepared, console)
        summary = run(prepared, baseline=baseline, watch=_watch(console, prepared))
    console.print(summary_table(summary))
    done = f"Written to {folder.path} in {summary['seconds']:.0f} s."
    console.print(done, highlight=False, soft_wrap=True)
    return 0


def _check_as_before(settings: RunSettings, folder: RunFolder) -> None:
    # Loading took its time, and another process may have trained to its end meanwhile.
    if not settings.run.resume:
        folder.check_may_start(settings.run.overwrite)
    elif folder.is_finished:
        raise UserError(f"resume: another process has finished the run in {folder.path} meanwhile.")


def _is_first_process() -> bool:
    # The launcher's variable: the trainer, which could tell too, does not exist yet.
    return os.environ.get("RANK", "0") == "0"


def resolve(parser: TrainParser, arguments: Sequence[str]) -> RunSettings:
    """Return all options of the run: those given over the recipe, or over the run resumed.

    Raises:
        UserError: an option that is not known, or that differs from the run resumed.
    """
    given = parser.given(arguments)
    settings = RunSettings.from_options(given)
    if not settings.run.resume:
        task, objective = settings.task, settings.objective
        defaults = METHODS[settings.run.method].defaults
        return RunSettings.from_options(
            recipe(task, objective) | defaults | given | {"task": task, "objective": objective}
        )
    folder = RunFolder(settings.folder)
    if not folder.is_run:
        raise UserError(
            f"resume: {folder.path} holds no run to go on with; leave out --resume, or give the "
            "--output_dir of the run."
        )
    saved = parser.given_by_file(folder.config_file)
    for name, value in given.items():
        # config.yaml has not those of the trainer's options that were left at their defaults.
        started = saved.get(name, parser.get_default(name))
        if name not in (*_STARTS, *_OF_THE_MACHINE) and value != started:
            raise UserError(
                f"{name}: the run in {folder.path} was started with {started!r}, not "
                f"{value!r}; leave --{name} out to go on with it, or give another --output_dir."
            )
    return RunSettings.from_options(saved | given)


def _check_resumes(settings: RunSettings, folder: RunFolder) -> None:
    method = METHODS[settings.run.method]
    if not method.resumes and newest_complete(folder.checkpoints)[0] is not None:
        raise UserError(
            f"resume: the checkpoints of {method.label} lack what it needs to go on; start over "
            f"with `{command_to_start_over(folder)}`."
        )


def _tell_where_it_resumes(console: Console, folder: RunFolder) -> None:
    checkpoint, faults = newest_complete(folder.checkpoints)
    for fault in faults:
        console.print(f"Skipped: {fault}.", highlight=False, soft_wrap=True)
    start = checkpoint.name if checkpoint else "the beginning, since no checkpoint is complete"
    console.print(f"Going on from {start}.", highlight=False, soft_wrap=True)


def _baseline(prepared: PreparedRun, console: Console) -> dict[str, Any] | None:
    if prepared.settings.run.baseline != "head" or prepared.settings.run.method == "head":
        return None
    path = prepared.folder.baseline_file
    if path.is_file():
        reached: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return reached
    reached = train_head_alone(prepared.settings, _watch(console, prepared))
    if prepared.trainer.is_world_process_zero():
        write_json_atomically(path, reached)
    return reached


def _watch(console: Console, prepared: PreparedRun) -> Any:
    return partial(watch_progress, console, metrics=prepared.shown)
