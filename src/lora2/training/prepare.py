"""Reads and checks every input of a run, and makes its trainer."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)

from lora2.data import TaskData, load_task, tokenize
from lora2.data.tokenization import by_length
from lora2.errors import UserError
from lora2.training.adapters import check_schedule, count_parameters
from lora2.training.arguments import MethodName, RunSettings
from lora2.training.head_start import start_head_at_label_mean
from lora2.training.methods.registry import METHODS
from lora2.training.methods.wrapping import HEADS
from lora2.training.metrics import compute_metrics
from lora2.training.models import (
    BaseModel,
    load_base_model,
    load_config,
    load_tokenizer,
    set_classifier_dropout,
)
from lora2.training.run_folder import RunFolder


class RunTrainer(Trainer):
    """The trainer of all runs."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # transformers 5.23 takes a `**kwargs` in the model's forward for the promise that the loss
        # is divided by the samples of the whole optimizer batch. Classification heads ignore the
        # number they are handed and return a mean, so that n accumulated micro-batches would give
        # n times the gradient.
        self.model_accepts_loss_kwargs = False

    def _run_epoch(self, **kwargs: Any) -> None:
        # Of a training that had ended within an epoch and is resumed, transformers 5.23 does one
        # more step before it looks whether any are left.
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(**kwargs)


@dataclass(frozen=True)
class PreparedRun:
    """A run whose every input has been read and checked; nothing has been written yet.

    Attributes:
        steps: number of optimizer steps.
        budget: the budget schedule in words.
        head: names of the modules that every method trains, see `count_parameters`.
        parameters: trainable parameters, of the "adapter" and of the "head".
    """

    settings: RunSettings
    folder: RunFolder
    task: TaskData
    tokenizer: PreTrainedTokenizerBase
    trainer: RunTrainer
    steps: int
    budget: str
    head: tuple[str, ...]
    parameters: dict[str, int]

    @property
    def main_metric(self) -> str:
        """Name of the metric that decides what is best, as it stands in metrics.jsonl."""
        return metric_name(self.task)


def metric_name(task: TaskData) -> str:
    """Return the main metric's name in the records; of the first validation set if several."""
    first = next(iter(task.validation))
    return f"{first}_{task.main_metric}" if len(task.validation) > 1 else task.main_metric


def load_data(settings: RunSettings) -> TaskData:
    """Load the task that the data options name."""
    options = dataclasses.asdict(settings.data)
    del options["max_length"]
    options["data_seed"] = options.pop("dataset_seed")
    return load_task(options.pop("task"), **options)


def prepare(settings: RunSettings, method: MethodName | None = None) -> PreparedRun:
    """Load data and model, add the adapter and make the trainer.

    Raises:
        UserError: anything that cannot be used, from a missing column to a schedule too long.
    """
    chosen = METHODS[method or settings.run.method]
    folder = RunFolder(settings.folder)
    task = load_data(settings)
    tokenizer = load_tokenizer(settings.model.model)
    sets = tokenize(task, tokenizer, settings.data.max_length)
    arguments = training_arguments(settings, folder)
    set_seed(arguments.seed)
    steps = optimizer_steps(arguments, len(sets["train"]))
    base = load_base(settings, task)
    if settings.model.head_start == "label_mean":
        start_head_at_label_mean(base, task)
    model = chosen.build(base, settings.adapter, steps)
    budget = check_schedule(model, steps)
    # By length: metrics do not depend on the order, and a batch of equal lengths has no padding.
    validation = {name: by_length(sets[name]) for name in task.validation}
    trainer = RunTrainer(
        model=model,
        args=arguments,
        train_dataset=sets["train"],
        eval_dataset=validation if len(validation) > 1 else next(iter(validation.values())),
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=compute_metrics(task.metrics),
        callbacks=chosen.callbacks(),
    )
    trainer.remove_callback(PrinterCallback)
    head = (*HEADS, *base.new_modules)
    return PreparedRun(
        settings,
        folder,
        task,
        tokenizer,
        trainer,
        steps,
        budget,
        head,
        count_parameters(model, head),
    )


def training_arguments(settings: RunSettings, folder: RunFolder) -> TrainingArguments:
    """Return the trainer's arguments.

    Raises:
        UserError: options that transformers refuses.
    """
    # torch warns about pinned memory where there is no device to copy to.
    options = {"dataloader_pin_memory": torch.cuda.is_available()} | settings.training
    try:
        return TrainingArguments(
            output_dir=str(folder.checkpoints), label_names=["labels"], disable_tqdm=True, **options
        )
    except ValueError as error:
        raise UserError(f"training: {' '.join(str(error).split()).rstrip('.')}.") from error


def optimizer_steps(arguments: TrainingArguments, rows: int) -> int:
    """Return how many optimizer steps the trainer will do, counted as it does."""
    if arguments.max_steps > 0:
        return arguments.max_steps
    rows_per_process = math.ceil(rows / arguments.world_size)
    round_batches = math.floor if arguments.dataloader_drop_last else math.ceil
    batches = round_batches(rows_per_process / arguments.train_batch_size)
    steps_per_epoch = max(1, math.ceil(batches / arguments.gradient_accumulation_steps))
    return math.ceil(arguments.num_train_epochs * steps_per_epoch)


def load_base(settings: RunSettings, task: TaskData) -> BaseModel:
    """Load the pretrained model of a run, with the head that its task needs."""
    config = load_config(settings.model.model, **_head_fields(task))
    set_classifier_dropout(config, settings.model.classifier_dropout)
    return load_base_model(settings.model.model, config, settings.model.dtype)


def _head_fields(task: TaskData) -> dict[str, Any]:
    """Return what a model's configuration must say of the task."""
    if task.kind == "regression":
        return {"num_labels": 1, "problem_type": "regression"}
    return {
        "problem_type": "single_label_classification",
        "id2label": dict(enumerate(task.label_names)),
        "label2id": {name: index for index, name in enumerate(task.label_names)},
    }
