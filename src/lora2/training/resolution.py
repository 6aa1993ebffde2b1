"""All options of a run: those given over those of its task, or over those of the run resumed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lora2.errors import UserError
from lora2.training.methods.registry import method_of
from lora2.training.objectives.registry import objective_of
from lora2.training.on_disk.run_folder import RunFolder
from lora2.training.options.arguments import HOW_IT_STARTS, RunSettings
from lora2.training.options.idle_options import refuse_idle
from lora2.training.options.recipes import recipe

Options = dict[str, Any]

# These options do not change what a run computes, so that they may change when it is resumed.
_OF_THE_MACHINE = (
    "dataloader_num_workers", "dataloader_pin_memory", "dataloader_prefetch_factor",
    "dataloader_persistent_workers", "report_to", "run_name", "logging_first_step", "ddp_timeout",
    "ddp_backend", "log_level", "log_level_replica", "project", "torch_empty_cache_steps",
    "eval_accumulation_steps", "skip_memory_metrics", "save_total_limit",
)  # fmt: skip

# These options name a file, a folder, or something on the hub.
_NAMES = (
    "train_file", "validation_file", "dataset", "data_dir", "model", "start_from", "output_dir",
    "label_column", "task",
)  # fmt: skip


def check_not_empty(given: Options) -> None:
    """Check that each option that names something does so: a variable of a shell may be empty.

    Raises:
        UserError: one of them is an empty text.
    """
    for name in _NAMES:
        if given.get(name) == "":
            raise UserError(f"{name} is an empty text; write a name or a path, or leave it out.")


def over_defaults(given: Options) -> RunSettings:
    """Return all options of a run: those given over those of its task, objective and method."""
    settings = RunSettings.from_options(given)
    task, objective = settings.task, objective_of(settings)
    defaults = method_of(settings).defaults
    kind = {"task": task, "objective": objective.name}
    return RunSettings.from_options(recipe(task, objective.recipe) | defaults | given | kind)


def folder_to_resume(given: Options) -> RunFolder:
    """Return the folder of the run to resume.

    Raises:
        UserError: it holds no run, or one that cannot be read.
    """
    refuse_idle(given, ("overwrite",), "with --resume")
    folder = RunFolder(RunSettings.from_options(given).folder)
    if not folder.is_run:
        raise UserError(
            f"resume: {folder.path} holds no run to resume; leave out --resume, or give the "
            "--output_dir of the run."
        )
    folder.read_options(resumes=True)
    return folder


def over_saved(
    given: Options, saved: Options, folder: RunFolder, default_of: Callable[[str], Any]
) -> RunSettings:
    """Return all options of a run that is resumed: those given over those that it was started with.

    saved: the options in the config.yaml of its folder.
    default_of: returns the default of one of the trainer's options.

    Raises:
        UserError: an option differs from the one that it was started with.
    """
    for name, value in given.items():
        # config.yaml does not have the trainer's options that were left at their defaults.
        started = saved.get(name, default_of(name))
        if name not in (*HOW_IT_STARTS, *_OF_THE_MACHINE) and value != started:
            raise UserError(
                f"{name}: the run in {folder.path} was started with {started!r}, not "
                f"{value!r}; leave --{name} out to resume it, or give another --output_dir."
            )
    return RunSettings.from_options(saved | given)


def differing_from_defaults(
    of_file: Options, settings: RunSettings, default_of: Callable[[str], Any]
) -> Options:
    """Return those options of a file that say anything other than what holds anyway.

    settings: of the run, whose method and task may be others than those that the file was written
    for.
    """
    usual = [_usual(settings), _usual(over_defaults(of_file))]
    return {
        name: value
        for name, value in of_file.items()
        if all(value != each.get(name, default_of(name)) for each in usual)
    }


def _usual(settings: RunSettings) -> Options:
    """Return the options that hold for such a run where none are given."""
    kind = {"method": settings.run.method, "task": settings.task, "objective": settings.objective}
    return over_defaults(kind).to_options()
