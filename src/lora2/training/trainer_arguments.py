"""The trainer's arguments, and how many optimizer steps they make."""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import TrainingArguments

from lora2.errors import UserError
from lora2.training.arguments import RunSettings
from lora2.training.run_folder import RunFolder


def training_arguments(
    settings: RunSettings,
    folder: RunFolder,
    kind: type[TrainingArguments] = TrainingArguments,
    **fields: Any,
) -> TrainingArguments:
    """Return the trainer's arguments, of a kind that may have more fields.

    Raises:
        UserError: options that transformers refuses.
    """
    # torch warns about pinned memory where there is no device to copy to.
    defaults = {"dataloader_pin_memory": torch.cuda.is_available()}
    try:
        return kind(
            output_dir=str(folder.checkpoints),
            label_names=["labels"],
            disable_tqdm=True,
            **defaults | fields | settings.training,
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
