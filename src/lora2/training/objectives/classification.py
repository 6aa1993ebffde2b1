"""Labels for texts: a new head on an encoder or decoder, by transformers' Trainer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, get_args

import torch
from torch import Tensor
from transformers import (
    BatchEncoding,
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainingArguments,
)

from lora2.data import (
    Kind,
    TaskData,
    load_labelled,
    load_task,
    texts_of,
    tokenize,
    tokenize_dataset,
)
from lora2.data.table_files import DataTable
from lora2.data.task import build_dataset
from lora2.data.tokenization import by_length
from lora2.errors import UserError
from lora2.training.arguments import RunSettings
from lora2.training.head_start import start_head_at_label_mean
from lora2.training.loaded_run import SavedRun
from lora2.training.metrics import compute_metrics
from lora2.training.models import (
    BaseModel,
    load_base_model,
    load_config,
    set_classifier_dropout,
    set_padding,
)
from lora2.training.objectives.class_results import class_cells, class_columns
from lora2.training.objectives.labelling import Labelling, ToLabel, class_fields, padded
from lora2.training.objectives.objective import Sets
from lora2.training.objectives.output import LABELS
from lora2.training.run_trainer import RunTrainer

if TYPE_CHECKING:
    from torch import nn


class Classification(Labelling):
    """Classes, or values on a scale."""

    name = "classification"
    output = LABELS
    options = frozenset(
        {
            "label_column",
            "kind",
            "train_sentences",
            "validation_sentences",
            "data_dir",
            "classifier_dropout",
            "head_start",
            "head_learning_rate",
            "baseline",
        }
    )
    # One for all methods: their own rates differ, and a comparison of adapters must not be one of
    # heads.
    recipe: ClassVar[Mapping[str, Any]] = {"head_learning_rate": 1e-3}

    def load_data(self, settings: RunSettings) -> TaskData:
        """Return the task that the data options name."""
        options = dataclasses.asdict(settings.data)
        for name in ("max_length", "image_column"):
            del options[name]
        options["data_seed"] = options.pop("dataset_seed")
        return load_task(options.pop("task"), **options)

    def load_base(self, settings: RunSettings, task: TaskData) -> BaseModel:
        """Return the pretrained model with the head that its task needs."""
        config = load_config(settings.model.model, **_head_fields(task))
        set_classifier_dropout(config, settings.model.classifier_dropout)
        base = load_base_model(settings.model.model, config, settings.model.dtype)
        if settings.model.head_start == "label_mean":
            start_head_at_label_mean(base, task)
        return base

    def tokenize(
        self,
        settings: RunSettings,
        task: TaskData,
        tokenizer: PreTrainedTokenizerBase,
        base: BaseModel,
    ) -> Sets:
        """Return token ids and labels; the model learns what they will be padded with."""
        set_padding(base.model, int(tokenizer.pad_token_id))
        return tokenize(task, tokenizer, settings.data.max_length)

    def trainer(
        self,
        settings: RunSettings,
        task: TaskData,
        tokenizer: PreTrainedTokenizerBase,
        model: nn.Module,
        arguments: TrainingArguments,
        sets: Sets,
        callbacks: list[TrainerCallback],
    ) -> RunTrainer:
        """Return the trainer of a model that is ready to train."""
        # Rows are sorted by length: metrics do not depend on the order, and a batch of equal
        # lengths has no padding.
        validation = {name: by_length(sets[name]) for name in task.validation}
        return RunTrainer(
            model=model,
            args=arguments,
            train_dataset=sets["train"],
            eval_dataset=validation if len(validation) > 1 else next(iter(validation.values())),
            data_collator=DataCollatorWithPadding(tokenizer),
            compute_metrics=compute_metrics(task.metrics),
            callbacks=callbacks,
        )

    def read_scored_rows(self, path: Path, task: Mapping[str, Any]) -> Any:
        """Return the rows of a file, with the labels of the run's task."""
        names = ("text_columns", "label_column", "kind", "label_names")
        return load_labelled(path, **{name: task[name] for name in names})

    def trains_on(self, task: Mapping[str, Any]) -> bool:
        """Whether a task is one of classes or values of texts."""
        return task.get("kind") in get_args(Kind)

    def measure(self, run: SavedRun, rows: Any, batch_size: int) -> dict[str, float]:
        """Return the metrics of the task."""
        logits = self._logits(run, rows, batch_size).numpy()
        labels = rows.with_format("numpy")["label"][:]
        return compute_metrics(run.task["metrics"])(EvalPrediction(logits, labels))

    def batches(self, run: SavedRun, rows: Any, batch_size: int) -> Iterator[BatchEncoding]:
        """Yield texts as inputs of the model."""
        tokenized = tokenize_dataset(rows, run.tokenizer, run.settings.data.max_length)
        return padded(run, tokenized, DataCollatorWithPadding(run.tokenizer), batch_size)

    def _logits(self, run: SavedRun, rows: Any, batch_size: int) -> Tensor:
        return torch.cat(run.logits(self.batches(run, rows, batch_size)))

    def from_table(self, run: SavedRun, table: DataTable) -> ToLabel:
        """Return the texts of a table."""
        return ToLabel(table.records(), texts_of(table, run.task["text_columns"]))

    def from_text(self, run: SavedRun, text: str, text_pair: str | None) -> ToLabel:
        """Return a text, or a pair of texts."""
        columns = run.task["text_columns"]
        texts = [text] if text_pair is None else [text, text_pair]
        if len(texts) != len(columns):
            advice = "add --text_pair" if len(columns) == 2 else "leave --text_pair out"
            raise UserError(f"text_pair: the run was trained on {' and '.join(columns)}; {advice}.")
        rows = build_dataset([[each] for each in texts], labels=None)
        return ToLabel(rows.to_list(), rows)

    def columns(self, run: SavedRun, given: ToLabel, flat: bool) -> list[str]:
        """Return label and probabilities, or value."""
        names = run.task["label_names"]
        return class_columns(names, flat) if names else ["value"]

    def found(self, run: SavedRun, given: ToLabel, batch_size: int, flat: bool) -> list[list[Any]]:
        """Return the label and all probabilities of each row, or its value."""
        logits, names = self._logits(run, given.rows, batch_size), run.task["label_names"]
        if names:
            return class_cells(logits, names, flat)
        return [[round(float(row[0]), 6)] for row in logits]


def _head_fields(task: TaskData) -> dict[str, Any]:
    """Return what a model's configuration must say of the task."""
    if task.kind == "regression":
        return {"num_labels": 1, "problem_type": "regression"}
    return {
        "problem_type": "single_label_classification",
        **class_fields(task.label_names),
    }
