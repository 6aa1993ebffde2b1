"""The interface of an objective: data, model and trainer of one kind of learning."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from transformers import TrainerCallback, TrainingArguments

from lora2.data.tasks.task import Task
from lora2.training.base_models.models import BaseModel
from lora2.training.base_models.preprocessors import Preprocessor, load_tokenizer
from lora2.training.finished_run.loaded_run import LoadedRun
from lora2.training.objectives.output import Output
from lora2.training.on_disk.run_folder import RunFolder
from lora2.training.options.arguments import RunSettings
from lora2.training.options.named_tasks import ObjectiveName
from lora2.training.trainer.run_trainer import RunBase

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import nn
    from transformers import PretrainedConfig


TOKENIZER = "tokenizer"

Sets = dict[str, "Dataset"]
"""Rows as the trainer reads them: "train" and the names of the validation sets."""


@dataclass(frozen=True)
class RunInputs:
    """The checked inputs of a run, of which its model and its trainer are made.

    Attributes:
        arguments: the trainer's.
        options: the adapter's options, with what new tokens bring.
        steps: number of optimizer steps.
    """

    arguments: TrainingArguments
    task: Any
    preprocessor: Any
    base: BaseModel
    options: Mapping[str, Any]
    sets: Sets
    steps: int


@dataclass(frozen=True)
class Measured:
    """What a finished run reaches on rows.

    Attributes:
        metrics: by their names.
        left_out: number of rows that are not scored, because `max_length` leaves nothing of them;
            0 where rows are packed, which are no longer counted.
    """

    metrics: dict[str, float]
    left_out: int = 0


class Objective(ABC):
    """One kind of learning; everything else of a run is the same for all of them.

    Attributes:
        name: as users write it.
        output: what its model gives.
        options: names of the options that it reads and not every objective does.
        recipe: options in which it differs from `lora2.training.options.recipes.GENERAL`, by name.
        preprocessor: what makes inputs of rows.
        preprocessor_file: the file that says so in the folder of a model.
        no_length: why its rows cannot be sorted by length, None if they can.
        unread: options that all other objectives read and this one does not, and why.
    """

    name: ClassVar[ObjectiveName]
    output: ClassVar[Output]
    options: ClassVar[frozenset[str]]
    recipe: ClassVar[Mapping[str, Any]]
    preprocessor: ClassVar[str] = TOKENIZER
    preprocessor_file: ClassVar[str] = "tokenizer_config.json"
    no_length: ClassVar[str | None] = None
    unread: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def check(self, settings: RunSettings) -> None:
        """Check what can be checked of the options alone, before data and model are read.

        Raises:
            UserError: a package is missing, or an option does not go with this objective.
        """

    def load_preprocessor(self, name: str) -> Preprocessor:
        """Return what makes inputs of rows, of a model or of a run's adapter: its tokenizer.

        Raises:
            UserError: there is none that can be loaded.
        """
        return load_tokenizer(name)

    @abstractmethod
    def load_data(self, settings: RunSettings) -> Any:
        """Return the task that the data options name.

        Raises:
            UserError: data that cannot be used.
        """

    @abstractmethod
    def load_base(self, settings: RunSettings, task: Any) -> BaseModel:
        """Return the pretrained model, as the task needs it.

        Raises:
            UserError: there is no such model.
        """

    @abstractmethod
    def reload(self, name: str, config: PretrainedConfig, dtype: str) -> BaseModel:
        """Return the model under a saved adapter; `config` is what was saved with it.

        Raises:
            UserError: there is no such model.
        """

    @abstractmethod
    def arguments(self, settings: RunSettings, folder: RunFolder) -> TrainingArguments:
        """Return the trainer's arguments.

        Raises:
            UserError: options that the trainer refuses.
        """

    @abstractmethod
    def encode(
        self,
        settings: RunSettings,
        task: Any,
        preprocessor: Any,
        base: BaseModel,
    ) -> Sets:
        """Return the rows as the trainer reads them.

        Raises:
            UserError: lengths or forms that preprocessor or model have no place for.
        """

    @abstractmethod
    def trainer(
        self,
        settings: RunSettings,
        inputs: RunInputs,
        model: nn.Module,
        callbacks: list[TrainerCallback],
    ) -> RunBase:
        """Return the trainer of a model that is ready to train."""

    @abstractmethod
    def shown(self, task: Task) -> tuple[tuple[str, ...], ...]:
        """Return the metrics to show while training, by what is known at the same time."""

    # Methods for a base model that the run makes itself

    def announcement(self, settings: RunSettings) -> str | None:
        """Return what to say before a training that takes its time to begin."""
        return None

    def base_location(self, folder: RunFolder, settings: RunSettings) -> str:
        """Return the name of a run's base model, or where it is."""
        return settings.model.model

    def write_base(self, folder: RunFolder, settings: RunSettings) -> None:
        """Write the base model into the folder of a run that has made it."""
        return

    # Methods for a finished run

    @abstractmethod
    def trains_on(self, task: Mapping[str, Any]) -> bool:
        """Whether a task of this description, as in task.json, has what the model is to give."""

    @abstractmethod
    def learnt(self, task: Mapping[str, Any]) -> str:
        """Return what a run of such a task has learnt, in words."""

    @abstractmethod
    def read_scored_rows(self, path: Path, task: Mapping[str, Any]) -> Any:
        """Return the rows of a file of the user's that a run can be scored on; task: task.json's.

        Raises:
            UserError: rows that cannot be used.
        """

    def scored_rows(self, run: LoadedRun, rows: Any) -> Any:
        """Return the validation rows that a run was scored on: all, unless it says otherwise."""
        return rows

    @abstractmethod
    def measure(self, run: LoadedRun, rows: Any, batch_size: int) -> Measured:
        """Return the metrics of a finished run on rows with labels or answers."""

    def sample_batch(self, run: LoadedRun) -> Any:
        """Return inputs to compare an export on, None if any token ids will do."""
        return None
