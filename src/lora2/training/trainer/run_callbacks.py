"""Callbacks of every run: its records, and checkpoints that hold all that is known of a step."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from lora2.training.on_disk.records import evaluation_records, training_logs, write_lines
from lora2.training.on_disk.run_folder import RunFolder


class Recorder(TrainerCallback):
    """Keeps metrics.jsonl and log.jsonl up to date."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write what has been logged."""
        self._write(state)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write what has been logged."""
        self._write(state)

    def _write(self, state: TrainerState) -> None:
        if state.is_world_process_zero:
            write_lines(self._folder.metrics_file, evaluation_records(state.log_history))
            write_lines(self._folder.log_file, training_logs(state.log_history))


class SaveAfterEvaluation(TrainerCallback):
    """Puts off the checkpoint of an epoch's last step until the epoch is evaluated and logged.

    transformers saves a step before it evaluates its epoch, or logs it. A run that is resumed there
    would lack the evaluation and the log, and draw other random numbers from then on.
    """

    def __init__(self) -> None:
        self._waits = False

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Save nothing yet where the epoch, or the training, ends with this step."""
        epoch = state.epoch or 0.0
        is_last = float(epoch).is_integer() or state.global_step >= state.max_steps
        at_epoch_end = IntervalStrategy.EPOCH in (args.eval_strategy, args.logging_strategy)
        if control.should_save and is_last and at_epoch_end:
            control.should_save, self._waits = False, True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Save what was put off, which is done after the evaluation."""
        control.should_save, self._waits = control.should_save or self._waits, False
