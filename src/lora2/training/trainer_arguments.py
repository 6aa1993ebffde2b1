"""The trainer's arguments, and how many optimizer steps they make."""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import TrainingArguments, get_scheduler
from transformers.integrations import get_reporting_integration_callbacks

from lora2.errors import UserError
from lora2.training.arguments import RunSettings
from lora2.training.run_folder import RunFolder

# Lowest values of options that transformers does not look at before it trains.
_LEAST = {
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "dataloader_num_workers": 0,
    "seed": 0,
    "learning_rate": 0,
    "weight_decay": 0,
    "max_grad_norm": 0,
    "adam_epsilon": 0,
    "label_smoothing_factor": 0,
}
_SHARES = ("adam_beta1", "adam_beta2")


def training_arguments(
    settings: RunSettings,
    folder: RunFolder,
    kind: type[TrainingArguments] = TrainingArguments,
    **fields: Any,
) -> TrainingArguments:
    """Return the trainer's arguments, of a kind that may have more fields.

    Raises:
        UserError: options that transformers refuses, or could not train with.
    """
    # torch warns about pinned memory where there is no device to copy to.
    defaults = {"dataloader_pin_memory": torch.cuda.is_available()}
    try:
        arguments = kind(
            output_dir=str(folder.checkpoints),
            label_names=["labels"],
            disable_tqdm=True,
            **defaults | fields | settings.training,
        )
    except ValueError as error:
        raise UserError(f"training: {' '.join(str(error).split()).rstrip('.')}.") from error
    # With more, transformers would split each batch over them by threads (DataParallel): a batch as
    # many times as large as the options say, for a run of another result.
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    for name, lowest in _LEAST.items():
        value = getattr(arguments, name)
        if not lowest <= value < math.inf:
            raise UserError(f"{name}={value} must be a number of at least {lowest}.")
    for name in _SHARES:
        if not 0 <= getattr(arguments, name) < 1:
            raise UserError(f"{name}={getattr(arguments, name)} must lie in [0, 1).")
    _check_reporting(arguments)
    return arguments


def _check_reporting(arguments: TrainingArguments) -> None:
    try:
        for callback in get_reporting_integration_callbacks(arguments.report_to):
            callback()
    except (RuntimeError, ValueError) as error:
        # A package that is not installed, or a name that is none.
        raise UserError(f"report_to: {' '.join(str(error).split()).rstrip('.')}.") from error


def check_learning_rate_schedule(arguments: TrainingArguments, steps: int) -> None:
    """Check that the trainer will be able to make its schedule, by making it.

    Raises:
        UserError: a schedule that cannot be made of its `lr_scheduler_kwargs`.
    """
    name = arguments.lr_scheduler_type
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=arguments.learning_rate)
    try:
        get_scheduler(
            name,
            optimizer,
            arguments.get_warmup_steps(steps),
            steps,
            scheduler_specific_kwargs=dict(arguments.lr_scheduler_kwargs or {}),
        )
    except (TypeError, ValueError) as error:
        raise UserError(
            f"lr_scheduler_type={getattr(name, 'value', name)} with lr_scheduler_kwargs="
            f"{arguments.lr_scheduler_kwargs}: {' '.join(str(error).split()).rstrip('.')}."
        ) from error


def optimizer_steps(arguments: TrainingArguments, rows: int) -> int:
    """Return how many optimizer steps the trainer will do, counted as it does."""
    if arguments.max_steps > 0:
        return arguments.max_steps
    rows_per_process = math.ceil(rows / arguments.world_size)
    round_batches = math.floor if arguments.dataloader_drop_last else math.ceil
    batches = round_batches(rows_per_process / arguments.train_batch_size)
    steps_per_epoch = max(1, math.ceil(batches / arguments.gradient_accumulation_steps))
    return math.ceil(arguments.num_train_epochs * steps_per_epoch)
