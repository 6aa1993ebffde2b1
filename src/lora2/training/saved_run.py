"""Loads what a finished run has saved: its adapter on its base model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import (
    AutoConfig,
    BatchEncoding,
    DataCollatorWithPadding,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lora2.data import Task, tokenize_dataset
from lora2.errors import UserError
from lora2.support.checked_files import check_fields, read_json
from lora2.training.arguments import ObjectiveName, RunSettings
from lora2.training.methods.registry import METHODS
from lora2.training.models import load_config, load_tokenizer, quiet_loading
from lora2.training.objectives.registry import objective_of
from lora2.training.prepare import load_data
from lora2.training.quiet import printing_on_standard_error
from lora2.training.run_files import DAMAGED
from lora2.training.run_folder import RunFolder
from lora2.tuners.base.finite_checks import check_finite_output
from lora2.tuners.base.loading import blaming, load_adapter, reason_of


@dataclass(frozen=True)
class SavedRun:
    """A run's adapter on its base model, or the model that was trained whole; in evaluation mode.

    Attributes:
        task: what task.json holds: metrics; kind, text columns and names of the labels, or form
            and system message of texts.
        summary: what summary.json holds.
    """

    folder: RunFolder
    settings: RunSettings
    task: dict[str, Any]
    summary: dict[str, Any]
    model: PeftModel | PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    def check_merges(self) -> None:
        """Check that what was trained can be put into the weights.

        Raises:
            UserError: there is nothing to merge, or it cannot be.
        """
        method = METHODS[self.settings.run.method]
        if method.whole:
            raise UserError(
                f"run: {self.folder.adapter} is a transformers checkpoint already; there is "
                "nothing to merge."
            )
        if not method.merges:
            raise UserError(
                f"run: {method.label} cannot be merged into the weights; load the adapter in "
                f"{self.folder.adapter} on its base model."
            )

    @printing_on_standard_error()
    @torch.no_grad()
    def logits(self, dataset: Any, batch_size: int = 64) -> Tensor:
        """Return the logits [rows, outputs] of texts, a Dataset as `lora2.data` makes them.

        Raises:
            NumericalError: naming the layer that computes NaN or infinity.
        """
        parts = []
        for batch in self.batches(dataset, batch_size):
            found = self.model(**batch).logits
            check_finite_output(found, self.model, partial(self.model, **batch))
            parts.append(found.float().cpu())
        return torch.cat(parts)

    def batches(self, dataset: Any, batch_size: int) -> Iterator[BatchEncoding]:
        """Yield texts, a Dataset as `lora2.data` makes them, as inputs of the model."""
        rows = tokenize_dataset(dataset, self.tokenizer, self.settings.data.max_length)
        collate = DataCollatorWithPadding(self.tokenizer)
        for start in range(0, len(rows), batch_size):
            batch = collate(rows.select(range(start, min(start + batch_size, len(rows)))).to_list())
            batch.pop("labels", None)
            yield batch.to(self.model.device)


@printing_on_standard_error()
def load_saved_run(
    path: Path, model: str | None = None, objective: ObjectiveName | None = None
) -> SavedRun:
    """Load a run's adapter; `model` says where its base model is now, if it has moved.

    objective: what the run must have learnt, if not anything will do.

    Raises:
        UserError: no run, an unfinished or damaged one, one of another objective, or a base model
            that the adapter does not fit.
    """
    folder = RunFolder(path)
    options = folder.read_options()
    folder.check_is_finished()
    summary = folder.read_summary()
    settings = RunSettings.from_options(options)
    if objective not in (None, settings.objective):
        raise UserError(f"run: {path} {objective_of(settings).instead}.")
    task = folder.read_task()
    if ("form" in task) == objective_of(settings).has_labels:
        raise UserError(
            f"{folder.task_file} is not of objective {settings.objective}, which "
            f"{folder.config_file} names; {DAMAGED}."
        )
    name = model or settings.model.model
    config = _saved_config(folder, task)
    base_type = load_config(name).model_type
    if base_type != config.model_type:
        raise UserError(
            f"model: the adapter in {folder.adapter} is of a {config.model_type} model and {name} "
            f"is {base_type}; give the model that it was trained on."
        )
    tokenizer = _saved_tokenizer(folder)
    whole = METHODS[settings.run.method].whole
    base = objective_of(settings).reload(
        str(folder.adapter) if whole else name, config, settings.model.dtype
    )
    adapted = base.model if whole else load_adapter(base.model, folder.adapter)
    adapted.eval()
    if torch.cuda.is_available():
        adapted.cuda()
    return SavedRun(folder, settings, task, summary, adapted, tokenizer)


def _saved_config(folder: RunFolder, task: dict[str, Any]) -> PretrainedConfig:
    """Return the model's configuration that was saved with the adapter, with its labels."""
    file = folder.adapter / "config.json"
    content = read_json(file, DAMAGED)
    check_fields(content, {"model_type": str}, file, DAMAGED)
    with blaming(str(file), DAMAGED), quiet_loading():
        config = AutoConfig.from_pretrained(folder.adapter)
    names = task.get("label_names", [])
    if names and list(config.id2label.values()) != names:
        raise UserError(
            f"{folder.task_file} has {len(names)} label_names, and they are not those of id2label "
            f"in {file}; {DAMAGED}."
        )
    return config


def _saved_tokenizer(folder: RunFolder) -> PreTrainedTokenizerBase:
    read_json(folder.adapter / "tokenizer_config.json", DAMAGED)
    what = f"the tokenizer in {folder.adapter}"
    try:
        with blaming(what, DAMAGED):
            return load_tokenizer(str(folder.adapter))
    except UserError as error:
        file = folder.adapter / "tokenizer.json"
        # It is loaded only now, because the file may be large.
        if file.exists():
            read_json(file, DAMAGED)
        if str(error).startswith(what):
            raise
        reason = reason_of(error.__cause__) if error.__cause__ else str(error).rstrip(".")
        raise UserError(f"{what} cannot be loaded ({reason}); {DAMAGED}.") from error


def load_validation(run: SavedRun, data_dir: str | None) -> Task:
    """Load the data of a run again."""
    if data_dir is not None:
        run.settings.data.data_dir = data_dir
    task: Task = load_data(run.settings)
    return task
