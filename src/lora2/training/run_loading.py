"""Loads what a finished run has saved: its adapter on its base model."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import CONFIG_NAME as MODEL_CONFIG

from lora2.data.tasks.digests import changed_set
from lora2.data.tasks.task import Task, rows_in_words
from lora2.errors import UserError
from lora2.support.checked_files import read_json
from lora2.support.error_text import in_one_sentence, reason_of
from lora2.training.base_models.models import load_config
from lora2.training.base_models.preprocessors import Preprocessor
from lora2.training.base_models.weight_digest import is_of_other_weights
from lora2.training.finished_run.loaded_run import LoadedRun
from lora2.training.methods.registry import method_of
from lora2.training.methods.whole_modules import keep_precise
from lora2.training.objectives.objective import Objective
from lora2.training.objectives.output import Output
from lora2.training.objectives.registry import objective_of
from lora2.training.on_disk.run_commands import command_into, command_to_resume
from lora2.training.on_disk.run_files import DAMAGED
from lora2.training.on_disk.run_folder import RunFolder
from lora2.training.on_disk.saved_config import read_saved_config
from lora2.training.options.arguments import RunSettings
from lora2.training.quiet import printing_on_standard_error
from lora2.tuners.base.loading import load_adapter, read_adapter_config


@printing_on_standard_error()
def load_saved_run(path: Path, model: str | None = None, output: Output | None = None) -> LoadedRun:
    """Load a run's adapter; `model` says where its base model is now, if it has moved.

    output: what its model must give, if not anything will do.

    Raises:
        UserError: no run, an unfinished or damaged one, one of another objective, or a base model
            that the adapter does not fit.
    """
    folder = RunFolder(path)
    options = folder.read_options()
    _check_is_finished(folder)
    summary = folder.read_summary()
    settings = RunSettings.from_options(options)
    objective = objective_of(settings)
    if output not in (None, objective.output):
        raise UserError(f"run: {path} {objective.output.instead}.")
    task = folder.read_task()
    if not objective.trains_on(task):
        raise UserError(
            f"{folder.task_file} is not of objective {settings.objective}, which "
            f"{folder.config_file} names; {DAMAGED}."
        )
    name = model or objective.base_location(folder, settings)
    config = _saved_config(folder, task)
    base_type = load_config(name).model_type
    if base_type != config.model_type:
        raise UserError(
            f"model: the adapter in {folder.adapter} is of a {config.model_type} model and {name} "
            f"is {base_type}; give the model that it was trained on."
        )
    preprocessor = _saved_preprocessor(folder, objective)
    whole = method_of(settings).whole
    base = objective.reload(str(folder.adapter) if whole else name, config, settings.model.dtype)
    if whole:
        adapted = base.model
    else:
        keep_precise(base.model, read_adapter_config(folder.adapter))
        adapted = load_adapter(base.model, folder.adapter)
        if is_of_other_weights(base.digest, task):
            warnings.warn(
                f"model: the weights of {name} are not those that the adapter in {folder.adapter} "
                "was trained on, so it gives other results than it did; give the model that it was "
                "trained on with --model.",
                stacklevel=2,
            )
    adapted.eval()
    if torch.cuda.is_available():
        adapted.cuda()
    return LoadedRun(folder, settings, task, summary, adapted, preprocessor, name)


@printing_on_standard_error()
def reload_base(run: LoadedRun, model: str | None = None) -> PreTrainedModel:
    """Load the base model of a run once more, without its adapter.

    Raises:
        UserError: it is no longer there; `model` says where it is now, if it has moved.
    """
    config = _saved_config(run.folder, run.task)
    objective, dtype = objective_of(run.settings), run.settings.model.dtype
    name = model or objective.base_location(run.folder, run.settings)
    base = objective.reload(name, config, dtype).model.eval()
    if not method_of(run.settings).whole:
        keep_precise(base, read_adapter_config(run.folder.adapter))
    return base


def _saved_config(folder: RunFolder, task: dict[str, Any]) -> PretrainedConfig:
    """Return the model's configuration that was saved with the adapter, with its labels."""
    config = read_saved_config(folder.adapter)
    names = task.get("label_names", [])
    if names and list(config.id2label.values()) != names:
        raise UserError(
            f"{folder.task_file} has {len(names)} label_names, and they are not those of id2label "
            f"in {folder.adapter / MODEL_CONFIG}; {DAMAGED}."
        )
    return config


def _saved_preprocessor(folder: RunFolder, objective: Objective) -> Preprocessor:
    read_json(folder.adapter / objective.preprocessor_file, DAMAGED)
    what = f"the {objective.preprocessor} in {folder.adapter}"
    try:
        with in_one_sentence(f"{what} cannot be loaded", DAMAGED):
            return objective.load_preprocessor(str(folder.adapter))
    except UserError as error:
        file = folder.adapter / "tokenizer.json"
        # It is loaded only now, because the file may be large.
        if file.exists():
            read_json(file, DAMAGED)
        if str(error).startswith(what):
            raise
        reason = reason_of(error.__cause__) if error.__cause__ else str(error).rstrip(".")
        raise UserError(f"{what} cannot be loaded ({reason}); {DAMAGED}.") from error


def load_validation(run: LoadedRun, data_dir: str | None) -> Task:
    """Load the data of a run again, from another folder if one is given.

    Raises:
        UserError: it is no longer there, or its validation rows are others.
    """
    settings = run.settings
    if data_dir is not None:
        settings = replace(settings, data=replace(settings.data, data_dir=data_dir))
    task: Task = objective_of(settings).load_data(settings)
    changed = changed_set(task, run.task, task.validation)
    what = None if changed is None else rows_in_words(changed)
    if what is None and [*getattr(task, "label_names", ())] != run.task.get("label_names", []):
        what = "labels"
    if what is not None:
        # Some of the others may have been trained on, and labels may have other numbers.
        raise UserError(
            f"run: the {what} are not those that {run.folder.path} was trained "
            "with; bring them back, or write --file to score the rows of a file."
        )
    return task


def _check_is_finished(folder: RunFolder) -> None:
    """Check that the run has been trained to its end.

    Raises:
        UserError: it has not; the sentence says how to get there.
    """
    if folder.is_finished:
        return
    if folder.has_diverged:
        raise UserError(
            f"{folder.path} holds a run that diverged; train it again with a lower learning "
            f"rate: `{command_into(folder)} --overwrite` and its other options."
        )
    raise UserError(
        f"{folder.path} holds a run that is not finished; resume it with "
        f"`{command_to_resume(folder)}`."
    )
