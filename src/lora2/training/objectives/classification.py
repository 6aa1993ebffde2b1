"""Labels for texts: a new head on an encoder or decoder, by transformers' Trainer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from transformers import (
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainingArguments,
)

from lora2.data import Task, TaskData, load_labelled, load_task, tokenize
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
from lora2.training.objectives.objective import Objective, Sets
from lora2.training.objectives.output import LABELS
from lora2.training.run_folder import RunFolder
from lora2.training.run_trainer import RunTrainer
from lora2.training.trainer_arguments import training_arguments

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig


# Rows to compare an export on.
_SAMPLE = 2


class Classification(Objective):
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

    def check(self, settings: RunSettings) -> None:
        """Need no package other than those that every training needs."""

    def load_data(self, settings: RunSettings) -> TaskData:
        """Return the task that the data options name."""
        options = dataclasses.asdict(settings.data)
        del options["max_length"]
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

    def reload(self, name: str, config: PretrainedConfig, dtype: str) -> BaseModel:
        """Return the model under a saved adapter, with the adapter's head."""
        head = {name: getattr(config, name) for name in ("problem_type", "id2label", "label2id")}
        base = load_base_model(name, load_config(name, **head), dtype)
        set_padding(base.model, getattr(config.get_text_config(), "pad_token_id", None))
        return base

    def arguments(self, settings: RunSettings, folder: RunFolder) -> TrainingArguments:
        """Return the trainer's arguments."""
        return training_arguments(settings, folder)

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

    def measure(self, run: SavedRun, rows: Any, batch_size: int) -> dict[str, float]:
        """Return the metrics of the task."""
        logits = run.logits(rows, batch_size).numpy()
        labels = rows.with_format("numpy")["label"][:]
        return compute_metrics(run.task["metrics"])(EvalPrediction(logits, labels))

    def sample_batch(self, run: SavedRun) -> Any:
        """Return rows that the run was validated on; None where they are no longer there."""
        try:
            validation = self.load_data(run.settings).validation
        except (UserError, OSError):
            return None
        rows = next(iter(validation.values()))
        return next(run.batches(rows.select(range(min(_SAMPLE, len(rows)))), _SAMPLE))

    def shown(self, task: Task) -> tuple[tuple[str, ...], ...]:
        """Return all metrics of all validation sets."""
        sets = task.validation
        return (
            tuple(
                f"{name}_{metric}" if len(sets) > 1 else metric
                for name in sets
                for metric in task.metrics
            ),
        )


def _head_fields(task: TaskData) -> dict[str, Any]:
    """Return what a model's configuration must say of the task."""
    if task.kind == "regression":
        return {"num_labels": 1, "problem_type": "regression"}
    return {
        "problem_type": "single_label_classification",
        "id2label": dict(enumerate(task.label_names)),
        "label2id": {name: index for index, name in enumerate(task.label_names)},
    }
