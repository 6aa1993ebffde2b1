"""All options of `lora2 train`, in groups of typed dataclasses, and as the settings of a run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from lora2.data.own.source import dataset_name, file_name
from lora2.training.options.data_arguments import DataArguments
from lora2.training.options.method_arguments import (
    METHOD_GROUPS,
    AdapterArguments,
    BottleneckArguments,
    PeftArguments,
    PromptArguments,
    SoraArguments,
    StartArguments,
)
from lora2.training.options.model_arguments import ModelArguments
from lora2.training.options.named_tasks import TASKS, ObjectiveName
from lora2.training.options.run_arguments import RunArguments
from lora2.training.options.text_arguments import TextArguments
from lora2.training.options.trainer_options import TrainingOptions

HOW_IT_STARTS = ("resume", "overwrite", "output_dir")
"""Options that say how a run starts, as against what it is."""


def option_names(group: type) -> tuple[str, ...]:
    """Return the names of a group's options."""
    return tuple(f.name for f in dataclasses.fields(group))


def as_typed(value: Any) -> str:
    """Return a value as somebody types it: of several words, with spaces between them."""
    if isinstance(value, list | tuple | set):
        return " ".join(map(as_typed, value))
    return str(value.value if isinstance(value, Enum) else value)


OPTION_GROUPS: dict[str, type] = {
    "adapter (Lora2Config)": AdapterArguments,
    "adapter of --method lora2": StartArguments,
    "adapter of --method sora": SoraArguments,
    "adapter of --method bottleneck": BottleneckArguments,
    "adapter of --method prompt": PromptArguments,
    "adapter of --method peft and PEFT's other methods": PeftArguments,
    "data": DataArguments,
    "text, of --objective sft and dpo": TextArguments,
    "model": ModelArguments,
    "run": RunArguments,
    "training (transformers.TrainingArguments)": TrainingOptions,
}
"""All groups, by their titles on the command line."""


def _without_enumeration(value: Any) -> Any:
    """Return what YAML can hold, which is no member of an enumeration."""
    if isinstance(value, list):
        return [_without_enumeration(each) for each in value]
    return value.value if isinstance(value, Enum) else value


@dataclass(frozen=True)
class RunSettings:
    """All options of a run, resolved.

    Attributes:
        adapter: the options of methods, by name.
        training: the fields of transformers.TrainingArguments that were given, by name.
    """

    data: DataArguments
    text: TextArguments
    model: ModelArguments
    run: RunArguments
    adapter: dict[str, Any]
    training: dict[str, Any]

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> RunSettings:
        """Distribute options, by name, over their groups."""

        def of(group: type) -> dict[str, Any]:
            names = option_names(group)
            return {name: value for name, value in options.items() if name in names}

        return cls(
            data=DataArguments(**of(DataArguments)),
            text=TextArguments(**of(TextArguments)),
            model=ModelArguments(**of(ModelArguments)),
            run=RunArguments(**of(RunArguments)),
            adapter={
                name: value
                for group in METHOD_GROUPS
                for name, value in dataclasses.asdict(group(**of(group))).items()
            },
            training=of(TrainingOptions),
        )

    def to_options(self) -> dict[str, Any]:
        """Return the options by name, without those that say how a run starts."""
        run = dataclasses.asdict(self.run)
        for name in HOW_IT_STARTS:
            del run[name]
        return {
            **run,
            **dataclasses.asdict(self.data),
            **dataclasses.asdict(self.text),
            **dataclasses.asdict(self.model),
            **self.adapter,
            **{name: _without_enumeration(value) for name, value in self.training.items()},
        }

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.run.output_dir or self._default_folder())

    @property
    def objective(self) -> ObjectiveName:
        """What is learnt: as the user said, else what the task is made for."""
        if self.run.objective is not None:
            return self.run.objective
        named = (name for name, tasks in TASKS.items() if self.data.task in tasks.names)
        return next(named, next(iter(TASKS)))

    @property
    def task(self) -> str | None:
        """The named task, with the default filled in; None for the user's own data."""
        own = self.data.train_file or self.data.dataset
        return self.data.task or (None if own else TASKS[self.objective].default)

    def _default_folder(self) -> Path:
        """Return runs/<task, file or dataset>, with the method after it if it is not lora2."""
        own = None
        if self.data.dataset:
            own = dataset_name(self.data.dataset)
        elif self.data.train_file:
            own = file_name(self.data.train_file)
        default = TASKS[self.objective].default or self.objective
        name = (self.data.task or own or default).replace("/", "--")
        return Path("runs") / (name if self.run.method == "lora2" else f"{name}-{self.run.method}")
