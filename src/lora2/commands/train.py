"""`lora2 train`: one training run into a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from lora2.commands.train_parser import TrainParser
from lora2.errors import NumericalError, UserError
from lora2.reports.console import new_console, print_table
from lora2.reports.progress import watch_progress
from lora2.reports.tables import plan_table, summary_table
from lora2.support.files import write_json_atomically
from lora2.support.heap import keep_freed_memory
from lora2.training.checks.default_task import check_default_task
from lora2.training.checks.option_effects import check_effects
from lora2.training.methods.registry import METHODS
from lora2.training.objectives.registry import objective_of
from lora2.training.on_disk.run_commands import command_to_start_over
from lora2.training.on_disk.run_folder import RunFolder
from lora2.training.on_disk.run_lock import held, left_as_found
from lora2.training.on_disk.run_start import check_is_outside, check_keeps, check_may_start
from lora2.training.on_disk.summary import RunSummary
from lora2.training.options.arguments import RunSettings
from lora2.training.prepare import PreparedRun, prepare
from lora2.training.resolution import (
    check_not_empty,
    differing_from_defaults,
    folder_to_resume,
    over_defaults,
    over_saved,
)
from lora2.training.resuming import newest_checkpoint, why_not_resumed
from lora2.training.run import (
    check_same_inputs,
    run,
    start_folder,
    train_head_alone,
    write_environment,
)
from lora2.training.trainer.joint_batch import with_joint_batch
from lora2.training.trainer.processes import in_first_process, is_first_process, processes_launched


def execute(arguments: Sequence[str]) -> int:
    """Run the subcommand and return the exit code."""
    settings = resolve(TrainParser(), arguments)
    folder = RunFolder(settings.folder)
    console = new_console(quiet=not is_first_process())
    if settings.run.resume and folder.is_finished:
        summary = folder.read_summary()
        console.print(f"The run in {folder.path} is finished already.", soft_wrap=True)
        print_table(console, summary_table(summary))
        return 0
    if settings.run.resume:
        _check_resumes(settings, folder)
    else:
        # Every process looks, and nothing is written before all have.
        check_may_start(folder, settings.run.overwrite)
        _check_place(settings, folder)
    keep_freed_memory()
    with left_as_found(folder) if is_first_process() else nullcontext():
        return _train(settings, folder)


def _train(settings: RunSettings, folder: RunFolder) -> int:
    started_with = _processes_at_start(settings, folder)
    settings = with_joint_batch(settings, started_with, processes_launched())
    announcement = objective_of(settings).announcement(settings)
    if announcement is not None:
        new_console(quiet=not is_first_process()).print(announcement, soft_wrap=True)
    prepared = prepare(settings)
    console = new_console(quiet=not prepared.trainer.is_world_process_zero())
    print_table(console, plan_table(prepared))
    prepared.trainer.accelerator.wait_for_everyone()

    def begin() -> None:
        stack.enter_context(held(folder))
        _check_as_before(settings, folder)
        if settings.run.resume:
            check_same_inputs(prepared)
            _tell_where_it_resumes(console, prepared)
            _tell_of_processes(console, prepared, started_with)
            write_environment(prepared, started_with)
        else:
            start_folder(prepared)

    with ExitStack() as stack:
        # The others look for checkpoints in the folder, which the first may be clearing.
        in_first_process(begin)
        baseline = _baseline(prepared, console)
        summary = _run(prepared, baseline, console)
    print_table(console, summary_table(summary))
    done = f"Written to {folder.path} in {summary.seconds:.0f} s."
    console.print(done, soft_wrap=True)
    return 0


def _run(prepared: PreparedRun, baseline: dict[str, Any] | None, console: Console) -> RunSummary:
    try:
        return run(prepared, baseline=baseline, watch=_watch(console, prepared))
    except NumericalError as error:
        raise NumericalError(
            f"{error} Then start over with --overwrite: a run that is resumed would diverge again."
        ) from error


def _check_as_before(settings: RunSettings, folder: RunFolder) -> None:
    # Loading took its time, and another process may have trained to its end in the meantime.
    if not settings.run.resume:
        check_may_start(folder, settings.run.overwrite)
    elif folder.is_finished:
        raise UserError(
            f"resume: another process has finished the run in {folder.path} in the meantime."
        )


def resolve(parser: TrainParser, arguments: Sequence[str]) -> RunSettings:
    """Return all options of the run: those given over the recipe, or over the run resumed.

    Raises:
        UserError: an option that is not known, or that differs from the run resumed.
    """
    given = parser.given(arguments)
    check_not_empty(given)
    settings = RunSettings.from_options(given)
    if settings.run.resume:
        folder = folder_to_resume(given)
        saved = parser.given_by_file(folder.config_file)
        return over_saved(given, saved, folder, parser.get_default)
    check_default_task(settings)
    settings = over_defaults(given)
    _check_effects(parser, arguments, settings)
    return settings


def _check_effects(parser: TrainParser, arguments: Sequence[str], settings: RunSettings) -> None:
    """Refuse options without effect; of a file only those that differ from what holds anyway.

    For the config.yaml of a run holds all options, and serves for another run.
    """
    typed = parser.typed(arguments)
    config = typed.pop("config", None)
    check_effects(settings, typed)
    if config is None:
        return
    of_file = parser.given_by_file(Path(config))
    differing = differing_from_defaults(of_file, settings, parser.get_default)
    untyped = {name: value for name, value in differing.items() if name not in typed}
    check_effects(settings, untyped, f" (in {config})")


def _check_resumes(settings: RunSettings, folder: RunFolder) -> None:
    reason = why_not_resumed(settings)
    if reason is not None:
        raise UserError(f"{reason}; start over with `{command_to_start_over(folder)}`.")


def _check_place(settings: RunSettings, folder: RunFolder) -> None:
    options = settings.to_options()
    for name in ("model", "train_file", "validation_file", "data_dir"):
        check_keeps(folder, name, options[name])
    for name in ("train_file", "validation_file", "dataset"):
        check_is_outside(folder, name, options[name])


def _processes_at_start(settings: RunSettings, folder: RunFolder) -> int:
    now = processes_launched()
    return folder.read_processes(now) if settings.run.resume else now


def _tell_of_processes(console: Console, prepared: PreparedRun, started_with: int) -> None:
    arguments = prepared.trainer.args
    if arguments.world_size != started_with:
        console.print(
            f"Processes: {arguments.world_size}, and {started_with} at the start; "
            f"gradient_accumulation_steps={arguments.gradient_accumulation_steps} keeps the rows "
            "of an optimizer step.",
            soft_wrap=True,
        )


def _tell_where_it_resumes(console: Console, prepared: PreparedRun) -> None:
    checkpoint, faults = newest_checkpoint(prepared)
    for fault in faults:
        console.print(f"Skipped: {fault}.", soft_wrap=True)
    start = checkpoint.name if checkpoint else "the beginning, since no checkpoint is left"
    console.print(f"Resuming from {start}.", soft_wrap=True)


def _baseline(prepared: PreparedRun, console: Console) -> dict[str, Any] | None:
    run_options = prepared.settings.run
    if run_options.baseline != "head" or METHODS[run_options.method].head_alone:
        return None
    reached = prepared.folder.read_baseline(prepared.main_metric)
    if reached is not None:
        return reached
    reached = train_head_alone(prepared.settings, _watch(console, prepared))
    if prepared.trainer.is_world_process_zero():
        write_json_atomically(prepared.folder.baseline_file, reached)
    return reached


def _watch(console: Console, prepared: PreparedRun) -> Any:
    return partial(watch_progress, console, metrics=prepared.shown)
