"""The base class of the objectives whose model labels something: head, metrics, predictions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from transformers import BatchEncoding, TrainerCallback, TrainingArguments

from lora2.data.tables.files import read_table
from lora2.data.tables.table import DataTable
from lora2.data.tables.writing import OutputRow
from lora2.data.tasks.task import LABEL_COLUMN, Task
from lora2.data.tokenization.texts import by_length
from lora2.errors import UserError
from lora2.training.base_models.models import (
    TEXT_LABELS,
    BaseModel,
    HeadKind,
    load_base_model,
    load_config,
    set_classifier_dropout,
    set_padding,
)
from lora2.training.finished_run.loaded_run import LoadedRun
from lora2.training.methods.registry import method_of
from lora2.training.objectives.head_start import start_head_at_label_mean
from lora2.training.objectives.objective import Objective, RunInputs
from lora2.training.on_disk.run_folder import RunFolder
from lora2.training.options.arguments import RunSettings
from lora2.training.trainer.run_trainer import RunTrainer
from lora2.training.trainer.trainer_arguments import training_arguments

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig

HEAD_OPTIONS = frozenset({"label_column", "head_start", "head_learning_rate", "baseline"})
"""The options of labels and of a new head."""
HEAD_RECIPE: Mapping[str, Any] = {"head_learning_rate": 1e-3}
"""One rate for all methods: a comparison of adapters must not be one of heads."""

# The number of rows that an export is compared on.
_SAMPLE = 2


@dataclass(frozen=True)
class ToLabel:
    """Rows that are to be labelled.

    Attributes:
        records: as the user wrote them; what is found comes after their own columns.
        rows: as the model reads them, a Dataset of equally many rows.
        texts: the texts that the rows were made of, where places are to be characters in them.
    """

    records: Sequence[OutputRow]
    rows: Any
    texts: Sequence[str] | None = None


class Labelling(Objective):
    """Labels of any kind.

    Attributes:
        head_kind: the kind of head that its models have.
        trainer_class: the class of its trainer.
    """

    head_kind: ClassVar[HeadKind] = TEXT_LABELS
    trainer_class: ClassVar[type[RunTrainer]] = RunTrainer

    def check(self, settings: RunSettings) -> None:
        """Need no package other than those that every training needs."""

    def refuse_prompts(self, settings: RunSettings) -> None:
        """Refuse a method that puts vectors in front of a text.

        Raises:
            UserError: it was chosen.
        """
        if method_of(settings).tokens_in_front is not None:
            raise UserError(
                f"method: prompt tuning puts vectors in front of a text, which {self.name} has no "
                "place for; choose another method."
            )

    def load_base(self, settings: RunSettings, task: Any) -> BaseModel:
        """Return the pretrained model with the head that its task needs."""
        return self.load_with_head(settings.model.model, settings, task)

    def load_with_head(self, name: str, settings: RunSettings, task: Any) -> BaseModel:
        """Return a model with the head that a task needs, started where its labels are."""
        fields = self.head_fields(task)
        config = load_config(name, **fields)
        set_classifier_dropout(config, settings.model.classifier_dropout)
        base = load_base_model(name, config, settings.model.dtype, self.head_kind)
        if settings.model.head_start == "label_mean":
            labels = torch.tensor(self.training_labels(task))
            is_scale = fields.get("problem_type") == "regression"
            start_head_at_label_mean(base, labels, is_scale)
        return base

    def head_fields(self, task: Any) -> dict[str, Any]:
        """Return what a model's configuration must say of its classes."""
        return {
            "id2label": dict(enumerate(task.label_names)),
            "label2id": {name: index for index, name in enumerate(task.label_names)},
        }

    def training_labels(self, task: Any) -> list[Any]:
        """Return the labels of all training rows."""
        return list(task.train[LABEL_COLUMN])

    def reload(self, name: str, config: PretrainedConfig, dtype: str) -> BaseModel:
        """Return the model under a saved adapter, with the adapter's head."""
        fields = ("problem_type", "id2label", "label2id")
        head = {field: getattr(config, field) for field in fields}
        base = load_base_model(name, load_config(name, **head), dtype, self.head_kind)
        set_padding(base.model, getattr(config.get_text_config(), "pad_token_id", None))
        return base

    def arguments(self, settings: RunSettings, folder: RunFolder) -> TrainingArguments:
        """Return the trainer's arguments."""
        return training_arguments(settings, folder)

    def trainer(
        self,
        settings: RunSettings,
        inputs: RunInputs,
        model: nn.Module,
        callbacks: list[TrainerCallback],
    ) -> RunTrainer:
        """Return the trainer of a model that is ready to train."""
        validation = {name: inputs.sets[name] for name in inputs.task.validation}
        if self.no_length is None:
            # Metrics do not depend on the order, and a batch of equal lengths has no padding.
            validation = {name: by_length(rows) for name, rows in validation.items()}
        return self.trainer_class(
            model=model,
            args=inputs.arguments,
            train_dataset=inputs.sets["train"],
            eval_dataset=validation if len(validation) > 1 else next(iter(validation.values())),
            callbacks=callbacks,
            **self.batches_and_metrics(inputs.task, inputs.preprocessor),
        )

    @abstractmethod
    def batches_and_metrics(self, task: Any, preprocessor: Any) -> dict[str, Any]:
        """Return arguments of a trainer: what makes batches of rows, and metrics of logits."""

    def shown(self, task: Task) -> tuple[tuple[str, ...], ...]:
        """Return all metrics of all validation sets."""
        return (task.recorded_metrics,)

    # Methods for a finished run

    @abstractmethod
    def batches(self, run: LoadedRun, rows: Any, batch_size: int) -> Iterator[BatchEncoding]:
        """Yield rows as inputs of a run's model, on its device, without labels."""

    def sample_batch(self, run: LoadedRun) -> Any:
        """Return rows that the run was validated on; None where they are no longer there."""
        try:
            validation = self.load_data(run.settings).validation
        except (UserError, OSError):
            return None
        rows = next(iter(validation.values()))
        return next(self.batches(run, rows.select(range(min(_SAMPLE, len(rows)))), _SAMPLE))

    # Methods for rows without labels

    def read_table(self, path: Path) -> DataTable:
        """Return the table of a file that is to be labelled.

        Raises:
            UserError: it cannot be read.
        """
        return read_table(path)

    def records(self, table: DataTable) -> list[OutputRow]:
        """Return the rows of a table as they are written again."""
        return table.records()

    @abstractmethod
    def from_table(self, run: LoadedRun, table: DataTable) -> ToLabel:
        """Return the rows of a table.

        Raises:
            UserError: rows that cannot be used.
        """

    @abstractmethod
    def from_text(self, run: LoadedRun, text: str, text_pair: str | None) -> ToLabel:
        """Return one row, of a text that was typed.

        Raises:
            UserError: the run reads something else.
        """

    @abstractmethod
    def columns(self, run: LoadedRun, given: ToLabel, flat: bool) -> list[str]:
        """Return the names of what is found; flat: whether cells are texts and numbers alone."""

    @abstractmethod
    def found(self, run: LoadedRun, given: ToLabel, batch_size: int, flat: bool) -> list[list[Any]]:
        """Return what is found of each row, in the order of `columns`."""


def padded(
    run: LoadedRun, rows: Any, collate: Callable[[list[Any]], Any], batch_size: int
) -> Iterator[BatchEncoding]:
    """Yield tokenized rows as batches on the device of a run's model, without labels."""
    for start in range(0, len(rows), batch_size):
        batch = collate(rows.select(range(start, min(start + batch_size, len(rows)))).to_list())
        batch.pop("labels", None)
        yield BatchEncoding(batch).to(run.model.device)
