"""What an objective is: the data, the model and the trainer of one kind of learning."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainingArguments

from lora2.data import Task
from lora2.training.arguments import ObjectiveName, RunSettings
from lora2.training.models import BaseModel
from lora2.training.run_folder import RunFolder

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import nn
    from transformers import PretrainedConfig

Sets = dict[str, "Dataset"]
"""Tokenized rows: "train" and the names of the validation sets."""


class Objective(ABC):
    """One kind of learning; everything else of a run is the same for all of them.

    Attributes:
        name: as users write it.
    """

    name: ClassVar[ObjectiveName]

    @abstractmethod
    def check(self, settings: RunSettings) -> None:
        """Check that the packages of this objective are there.

        Raises:
            UserError: one is missing.
        """

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
    def tokenize(
        self,
        settings: RunSettings,
        task: Any,
        tokenizer: PreTrainedTokenizerBase,
        base: BaseModel,
    ) -> Sets:
        """Return the rows as the trainer reads them.

        Raises:
            UserError: lengths or forms that tokenizer or model have no place for.
        """

    @abstractmethod
    def trainer(
        self,
        settings: RunSettings,
        task: Any,
        tokenizer: PreTrainedTokenizerBase,
        model: nn.Module,
        arguments: TrainingArguments,
        sets: Sets,
        callbacks: list[TrainerCallback],
    ) -> Trainer:
        """Return the trainer of a model that is ready to train."""

    @abstractmethod
    def shown(self, task: Task) -> tuple[tuple[str, ...], ...]:
        """Return the metrics to show while training, by what is known at the same time."""
