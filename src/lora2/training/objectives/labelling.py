"""What objectives have in common whose model labels something: a head, metrics, predictions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from transformers import BatchEncoding, TrainingArguments

from lora2.data import Task, read_table
from lora2.data.table_files import DataTable
from lora2.data.table_writing import OutputRow
from lora2.errors import UserError
from lora2.training.arguments import RunSettings
from lora2.training.loaded_run import SavedRun
from lora2.training.models import (
    TEXT_LABELS,
    BaseModel,
    HeadKind,
    load_base_model,
    load_config,
    set_padding,
)
from lora2.training.objectives.objective import Objective
from lora2.training.run_folder import RunFolder
from lora2.training.trainer_arguments import training_arguments

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# Rows to compare an export on.
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
    """

    head_kind: ClassVar[HeadKind] = TEXT_LABELS

    def check(self, settings: RunSettings) -> None:
        """Need no package other than those that every training needs."""

    def refuse_prompts(self, settings: RunSettings) -> None:
        """Refuse the method that puts vectors in front of a text.

        Raises:
            UserError: it was chosen.
        """
        if settings.run.method == "prompt":
            raise UserError(
                f"method: prompt tuning puts vectors in front of a text, which {self.name} has no "
                "place for; choose another method."
            )

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

    # Of a finished run

    @abstractmethod
    def batches(self, run: SavedRun, rows: Any, batch_size: int) -> Iterator[BatchEncoding]:
        """Yield rows as inputs of a run's model, on its device, without labels."""

    def sample_batch(self, run: SavedRun) -> Any:
        """Return rows that the run was validated on; None where they are no longer there."""
        try:
            validation = self.load_data(run.settings).validation
        except (UserError, OSError):
            return None
        rows = next(iter(validation.values()))
        return next(self.batches(run, rows.select(range(min(_SAMPLE, len(rows)))), _SAMPLE))

    # Of rows without labels

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
    def from_table(self, run: SavedRun, table: DataTable) -> ToLabel:
        """Return the rows of a table.

        Raises:
            UserError: rows that cannot be used.
        """

    @abstractmethod
    def from_text(self, run: SavedRun, text: str, text_pair: str | None) -> ToLabel:
        """Return one row, of a text that was typed.

        Raises:
            UserError: the run reads something else.
        """

    @abstractmethod
    def columns(self, run: SavedRun, given: ToLabel, flat: bool) -> list[str]:
        """Return the names of what is found; flat: whether cells are texts and numbers alone."""

    @abstractmethod
    def found(self, run: SavedRun, given: ToLabel, batch_size: int, flat: bool) -> list[list[Any]]:
        """Return what is found of each row, in the order of `columns`."""


def padded(
    run: SavedRun, rows: Any, collate: Callable[[list[Any]], Any], batch_size: int
) -> Iterator[BatchEncoding]:
    """Yield tokenized rows as batches on the device of a run's model, without labels."""
    for start in range(0, len(rows), batch_size):
        batch = collate(rows.select(range(start, min(start + batch_size, len(rows)))).to_list())
        batch.pop("labels", None)
        yield BatchEncoding(batch).to(run.model.device)


def class_fields(label_names: Sequence[str]) -> dict[str, Any]:
    """Return what a model's configuration must say of its classes."""
    return {
        "id2label": dict(enumerate(label_names)),
        "label2id": {name: index for index, name in enumerate(label_names)},
    }
