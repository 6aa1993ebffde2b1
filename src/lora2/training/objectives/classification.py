"""Labels for texts: a new head on an encoder or decoder, by transformers' Trainer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from transformers import (
    BatchEncoding,
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
)

from lora2.data.loading.classification import load_task
from lora2.data.own.labelled import load_labelled, texts_of
from lora2.data.tables.table import DataTable
from lora2.data.tasks.labelled_task import Kind, LabelledTextTask, build_dataset
from lora2.data.tokenization.texts import tokenize, tokenize_dataset
from lora2.errors import UserError
from lora2.training.base_models.models import (
    BaseModel,
    pads_behind,
    set_padding,
)
from lora2.training.finished_run.loaded_run import LoadedRun
from lora2.training.objectives.labelling import (
    HEAD_OPTIONS,
    HEAD_RECIPE,
    ToLabel,
    padded,
)
from lora2.training.objectives.objective import Sets
from lora2.training.objectives.output import LABELS
from lora2.training.objectives.row_labelling import RowLabelling
from lora2.training.options.arguments import RunSettings
from lora2.training.scores.metrics import compute_metrics


class Classification(RowLabelling):
    """Classes, or values on a scale."""

    name = "classification"
    output = LABELS
    options = HEAD_OPTIONS | {
        "kind", "train_sentences", "validation_sentences", "data_dir", "classifier_dropout",
    }  # fmt: skip
    recipe = HEAD_RECIPE

    def load_data(self, settings: RunSettings) -> LabelledTextTask:
        """Return the task that the data options name."""
        own = ("text_columns", "label_column", "kind")
        named = ("data_dir", "train_sentences", "validation_sentences")
        return load_task(**settings.data.for_loader(*own, *named))

    def head_fields(self, task: LabelledTextTask) -> dict[str, Any]:
        """Return what a model's configuration must say of the task."""
        if task.kind == "regression":
            return {"num_labels": 1, "problem_type": "regression"}
        return {"problem_type": "single_label_classification", **super().head_fields(task)}

    def encode(
        self,
        settings: RunSettings,
        task: LabelledTextTask,
        tokenizer: PreTrainedTokenizerBase,
        base: BaseModel,
    ) -> Sets:
        """Return token ids and labels; the model learns what they will be padded with."""
        set_padding(base.model, int(tokenizer.pad_token_id))
        if pads_behind(base.model):
            tokenizer.padding_side = "right"
        return tokenize(task, tokenizer, settings.data.max_length)

    def batches_and_metrics(
        self, task: LabelledTextTask, tokenizer: PreTrainedTokenizerBase
    ) -> dict[str, Any]:
        """Return what pads texts, and the task's metrics."""
        return {
            "data_collator": DataCollatorWithPadding(tokenizer),
            "compute_metrics": compute_metrics(task.metrics),
        }

    def read_scored_rows(self, path: Path, task: Mapping[str, Any]) -> Any:
        """Return the rows of a file, with the labels of the run's task."""
        names = ("text_columns", "label_column", "kind", "label_names")
        return load_labelled(path, **{name: task[name] for name in names})

    def trains_on(self, task: Mapping[str, Any]) -> bool:
        """Whether a task is one of classes or values of texts."""
        return task.get("kind") in get_args(Kind)

    def learnt(self, task: Mapping[str, Any]) -> str:
        """Return what it has learnt, in words."""
        what = "numbers" if task["kind"] == "regression" else "classes"
        return f"{what} of {'pairs of ' if len(task['text_columns']) == 2 else ''}texts"

    def batches(self, run: LoadedRun, rows: Any, batch_size: int) -> Iterator[BatchEncoding]:
        """Yield texts as inputs of the model."""
        tokenized = tokenize_dataset(rows, run.tokenizer, run.settings.data.max_length)
        return padded(run, tokenized, DataCollatorWithPadding(run.tokenizer), batch_size)

    def from_table(self, run: LoadedRun, table: DataTable) -> ToLabel:
        """Return the texts of a table."""
        return ToLabel(table.records(), texts_of(table, run.task["text_columns"]))

    def from_text(self, run: LoadedRun, text: str, text_pair: str | None) -> ToLabel:
        """Return a text, or a pair of texts."""
        columns = run.task["text_columns"]
        texts = [text] if text_pair is None else [text, text_pair]
        if len(texts) != len(columns):
            advice = "add --text_pair" if len(columns) == 2 else "leave --text_pair out"
            raise UserError(f"text_pair: the run was trained on {' and '.join(columns)}; {advice}.")
        rows = build_dataset([[each] for each in texts], labels=None)
        return ToLabel(rows.to_list(), rows)
