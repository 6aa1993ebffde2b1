"""Loads what a finished run left behind: its adapter on its base model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import (
    AutoConfig,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lora2.data import Task, tokenize_dataset
from lora2.errors import UserError
from lora2.training.arguments import ObjectiveName, RunSettings
from lora2.training.methods.registry import METHODS
from lora2.training.models import load_config, load_tokenizer
from lora2.training.objectives.registry import objective_of
from lora2.training.prepare import load_data
from lora2.training.run_folder import RunFolder
from lora2.tuners.base.loading import load_adapter

_INSTEAD: dict[ObjectiveName, str] = {
    "classification": "has learnt labels and cannot write texts; use `lora2 predict`",
    "sft": "has learnt to write texts and has no labels; use `lora2 generate`",
}


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
                f"{self.folder.adapter} beside its base model."
            )

    @torch.no_grad()
    def logits(self, dataset: Any, batch_size: int = 64) -> Tensor:
        """Return the logits [rows, outputs] of texts, a Dataset as `lora2.data` makes them."""
        rows = tokenize_dataset(dataset, self.tokenizer, self.settings.data.max_length)
        collate = DataCollatorWithPadding(self.tokenizer)
        device = self.model.device
        parts = []
        for start in range(0, len(rows), batch_size):
            batch = collate(rows.select(range(start, min(start + batch_size, len(rows)))).to_list())
            batch.pop("labels", None)
            parts.append(self.model(**batch.to(device)).logits.float().cpu())
        return torch.cat(parts)


def load_saved_run(
    path: Path, model: str | None = None, objective: ObjectiveName | None = None
) -> SavedRun:
    """Load a run's adapter; `model` says where its base model lies now, if it has moved.

    objective: what the run must have learnt, if not anything will do.

    Raises:
        UserError: no run, an unfinished one, one of another objective, or a base model that the
            adapter does not fit.
    """
    folder = RunFolder(path)
    options = folder.read_options()
    summary = folder.read_summary()
    if summary is None:
        raise UserError(
            f"{path} holds a run that is not finished; go on with `lora2 train --output_dir {path} "
            "--resume`."
        )
    settings = RunSettings.from_options(options)
    if objective not in (None, settings.objective):
        raise UserError(f"run: {path} {_INSTEAD[settings.objective]}.")
    name = model or settings.model.model
    # The adapter's folder has the configuration with the names of the labels.
    config = AutoConfig.from_pretrained(folder.adapter)
    base_type = load_config(name).model_type
    if base_type != config.model_type:
        raise UserError(
            f"model: the adapter in {folder.adapter} is of a {config.model_type} model and {name} "
            f"is {base_type}; give the model that it was trained on."
        )
    whole = METHODS[settings.run.method].whole
    base = objective_of(settings).reload(
        str(folder.adapter) if whole else name, config, settings.model.dtype
    )
    adapted = base.model if whole else load_adapter(base.model, folder.adapter)
    adapted.eval()
    if torch.cuda.is_available():
        adapted.cuda()
    tokenizer = load_tokenizer(str(folder.adapter))
    return SavedRun(folder, settings, folder.read_task(), summary, adapted, tokenizer)


def load_validation(run: SavedRun, data_dir: str | None) -> Task:
    """Load the data of a run again."""
    if data_dir is not None:
        run.settings.data.data_dir = data_dir
    task: Task = load_data(run.settings)
    return task
