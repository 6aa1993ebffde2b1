"""One training run, from resolved options to a finished run folder."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import (
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from lora2.allocator import RankAllocator
from lora2.data import TaskData, load_task, tokenize
from lora2.files import write_json_atomically
from lora2.trainer import Lora2Callback
from lora2.training.adapters import add_adapter, check_schedule, count_parameters
from lora2.training.arguments import Method, RunSettings
from lora2.training.checkpoints import newest_complete
from lora2.training.environment import describe_environment, versions
from lora2.training.metrics import compute_metrics
from lora2.training.models import load_base_model, load_config, load_tokenizer
from lora2.training.records import best_and_last, evaluation_records, training_logs, write_lines
from lora2.training.run_folder import RunFolder, new_folder


class RunInterrupted(KeyboardInterrupt):
    """Ctrl-C during training; the message says how to go on."""


class RunTrainer(Trainer):  # type: ignore[misc]
    """The trainer of all runs."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # transformers 5.23 takes a `**kwargs` in the model's forward for the promise that the loss
        # is divided by the samples of the whole optimizer batch. Classification heads ignore the
        # number they are handed and return a mean, so that n accumulated micro-batches would give
        # n times the gradient.
        self.model_accepts_loss_kwargs = False


@dataclass(frozen=True)
class PreparedRun:
    """A run whose every input has been read and checked; nothing has been written yet.

    Attributes:
        steps: number of optimizer steps.
        budget: the budget schedule in words.
        parameters: trainable parameters, of the "adapter" and of the "head".
    """

    settings: RunSettings
    folder: RunFolder
    task: TaskData
    tokenizer: PreTrainedTokenizerBase
    trainer: RunTrainer
    steps: int
    budget: str
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


def prepare(settings: RunSettings, method: Method | None = None) -> PreparedRun:
    """Load data and model, add the adapter and make the trainer.

    Raises:
        UserError: anything that cannot be used, from a missing column to a schedule too long.
    """
    method = method or settings.run.method
    folder = RunFolder(settings.folder)
    task = load_data(settings)
    tokenizer = load_tokenizer(settings.model.model)
    sets = tokenize(task, tokenizer, settings.data.max_length)
    arguments = training_arguments(settings, folder)
    set_seed(arguments.seed)
    model = _adapted_model(settings, method, task)
    steps = optimizer_steps(arguments, len(sets["train"]))
    budget = check_schedule(model, steps)
    validation = {name: sets[name] for name in task.validation}
    trainer = RunTrainer(
        model=model,
        args=arguments,
        train_dataset=sets["train"],
        eval_dataset=validation if len(validation) > 1 else next(iter(validation.values())),
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=compute_metrics(task.metrics),
        callbacks=[Lora2Callback()] if method == "lora2" else [],
    )
    trainer.remove_callback(PrinterCallback)
    return PreparedRun(
        settings, folder, task, tokenizer, trainer, steps, budget, count_parameters(model)
    )


def training_arguments(settings: RunSettings, folder: RunFolder) -> TrainingArguments:
    """Return the trainer's arguments."""
    # torch warns about pinned memory where there is no device to copy to.
    options = {"dataloader_pin_memory": torch.cuda.is_available()} | settings.training
    return TrainingArguments(
        output_dir=str(folder.checkpoints), label_names=["labels"], disable_tqdm=True, **options
    )


def optimizer_steps(arguments: TrainingArguments, rows: int) -> int:
    """Return how many optimizer steps the trainer will do, counted as it does."""
    if arguments.max_steps > 0:
        return arguments.max_steps
    rows_per_process = math.ceil(rows / arguments.world_size)
    round_batches = math.floor if arguments.dataloader_drop_last else math.ceil
    batches = round_batches(rows_per_process / arguments.train_batch_size)
    steps_per_epoch = max(1, math.ceil(batches / arguments.gradient_accumulation_steps))
    return math.ceil(arguments.num_train_epochs * steps_per_epoch)


def _adapted_model(settings: RunSettings, method: Method, task: TaskData) -> PeftModel:
    config = load_config(settings.model.model, **_head_fields(task))
    base = load_base_model(settings.model.model, config, settings.model.dtype)
    return add_adapter(base, method, settings.adapter)


def _head_fields(task: TaskData) -> dict[str, Any]:
    """Return what a model's configuration must say of the task."""
    if task.kind == "regression":
        return {"num_labels": 1, "problem_type": "regression"}
    return {
        "problem_type": "single_label_classification",
        "id2label": dict(enumerate(task.label_names)),
        "label2id": {name: index for index, name in enumerate(task.label_names)},
    }


class _Recorder(TrainerCallback):  # type: ignore[misc]
    """Keeps metrics.jsonl and log.jsonl up to date."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._write(state)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._write(state)

    def _write(self, state: TrainerState) -> None:
        if state.is_world_process_zero:
            write_lines(self._folder.metrics_file, evaluation_records(state.log_history))
            write_lines(self._folder.log_file, training_logs(state.log_history))


Watch = Callable[[str, int], AbstractContextManager[TrainerCallback | None]]


def no_watch(title: str, steps: int) -> AbstractContextManager[TrainerCallback | None]:
    """Show no progress."""
    return nullcontext()


def train_head_alone(settings: RunSettings, watch: Watch = no_watch) -> dict[str, Any]:
    """Train the head on the frozen encoder and return what it reached; nothing is saved.

    For fewer epochs than the run: with a few hundred parameters it is soon where it stays, and an
    epoch of it costs a third of one of the run.
    """
    epochs = min(settings.run.baseline_epochs, settings.training["num_train_epochs"])
    training = settings.training | {"save_strategy": "no", "num_train_epochs": epochs}
    prepared = prepare(dataclasses.replace(settings, training=training), method="head")
    with watch("head alone", prepared.steps) as callback:
        if callback is not None:
            prepared.trainer.add_callback(callback)
        prepared.trainer.train()
    return {
        "parameters": prepared.parameters["head"],
        **_reached(prepared, prepared.trainer.state.log_history),
    }


def start_folder(prepared: PreparedRun) -> None:
    """Write what is known before training into the run folder."""
    if not prepared.trainer.is_world_process_zero():
        return
    task = prepared.task
    prepared.folder.start(
        prepared.settings.to_options(),
        {
            "name": task.name,
            "kind": task.kind,
            "text_columns": task.text_columns,
            "label_column": task.label_column,
            "label_names": task.label_names,
            "validation_sets": list(task.validation),
            "metrics": task.metrics,
            "main_metric": prepared.main_metric,
        },
    )
    write_environment(prepared)


def write_environment(prepared: PreparedRun) -> None:
    """Write environment.json."""
    seed = {"seed": prepared.trainer.args.seed}
    write_json_atomically(prepared.folder.environment_file, seed | describe_environment())


def run(
    prepared: PreparedRun, *, baseline: dict[str, Any] | None = None, watch: Watch = no_watch
) -> dict[str, Any]:
    """Train to the end, from the newest complete checkpoint if there is one; save and summarise.

    Returns:
        What summary.json holds.

    Raises:
        RunInterrupted: on Ctrl-C.
    """
    trainer, folder = prepared.trainer, prepared.folder
    checkpoint, _ = newest_complete(folder.checkpoints)
    trainer.add_callback(_Recorder(folder))
    started = time.monotonic()
    with watch(prepared.settings.run.method, prepared.steps) as callback:
        if callback is not None:
            trainer.add_callback(callback)
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except KeyboardInterrupt as error:
            raise RunInterrupted(
                f"Interrupted at step {trainer.state.global_step} of {prepared.steps}; go on with "
                f"`lora2 train --output_dir {folder.path} --resume`."
            ) from error
    seconds = time.monotonic() - started
    summary = _summary(prepared, seconds, checkpoint, baseline)
    if trainer.is_world_process_zero():
        save_adapter(prepared, folder.adapter)
        write_json_atomically(folder.summary_file, summary)
    return summary


def save_adapter(prepared: PreparedRun, path: Path) -> None:
    """Save adapter, tokenizer and model configuration (with the names of the labels)."""
    model = prepared.trainer.accelerator.unwrap_model(prepared.trainer.model)
    with new_folder(path) as temporary:
        model.save_pretrained(temporary, save_embedding_layers=False)
        model.get_base_model().config.save_pretrained(temporary)
        prepared.tokenizer.save_pretrained(temporary)


def _summary(
    prepared: PreparedRun, seconds: float, checkpoint: Path | None, baseline: dict[str, Any] | None
) -> dict[str, Any]:
    trainer = prepared.trainer
    return {
        "task": prepared.task.name,
        "model": prepared.settings.model.model,
        "method": prepared.settings.run.method,
        "main_metric": prepared.main_metric,
        **_reached(prepared, trainer.state.log_history),
        "baseline": baseline,
        "trainable_parameters": prepared.parameters,
        "final_parameters": count_parameters(trainer.model),
        "steps": trainer.state.global_step,
        "seconds": round(seconds, 1),
        "resumed_from_step": int(checkpoint.name.rpartition("-")[2]) if checkpoint else None,
        "kept_singular_values": _kept_by_module(trainer),
        "seed": trainer.args.seed,
        "versions": versions(),
    }


def _reached(prepared: PreparedRun, history: list[dict[str, Any]]) -> dict[str, Any]:
    found = best_and_last(evaluation_records(history), prepared.main_metric)
    return dict(zip(("best", "last"), found or (None, None), strict=True))


def _kept_by_module(trainer: Trainer) -> dict[str, int]:
    allocators: list[RankAllocator] = [
        allocator
        for callback in trainer.callback_handler.callbacks
        if isinstance(callback, Lora2Callback)
        for allocator in callback.allocators.values()
    ]
    kept = allocators[0].kept_by_module() if allocators else {}
    return {name.removeprefix("base_model.model."): count for name, count in kept.items()}
