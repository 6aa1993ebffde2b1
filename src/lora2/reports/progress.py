"""Progress of a training: a bar on a terminal, and one line per evaluation everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import Progress, TextColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lora2.reports.numbers_in_words import epoch_in_words
from lora2.reports.progress_bar import progress_bar
from lora2.trainers.logs import KEPT_VALUES
from lora2.training.on_disk.records import evaluation_records


class ProgressWatch(TrainerCallback):
    """Moves the bar and prints a line whenever all metrics of a group are known.

    A group is what belongs together, such as the same metric of several validation sets, which are
    evaluated one after the other.
    """

    def __init__(
        self, progress: Progress, title: str, steps: int, metrics: tuple[tuple[str, ...], ...]
    ) -> None:
        self._progress = progress
        self._bar = progress.add_task(title, total=steps, note="")
        self._title = title
        self._metrics = metrics
        self._printed: set[tuple[int, tuple[str, ...]]] = set()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start at the step resumed from."""
        self._progress.update(self._bar, completed=state.global_step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Move the bar."""
        self._progress.update(self._bar, completed=state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show loss and kept singular values after the bar."""
        if logs and "loss" in logs:
            note = f"loss {float(logs['loss']):.3f}"
            if KEPT_VALUES in logs:
                note += f", kept {logs[KEPT_VALUES]}"
            self._progress.update(self._bar, note=note)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Print each group of metrics, once the last of them is known."""
        record = evaluation_records(state.log_history)[-1]
        for group in self._metrics:
            place = (state.global_step, group)
            if place not in self._printed and all(name in record for name in group):
                self._printed.add(place)
                self._print(record, group)

    def _print(self, record: dict[str, Any], group: tuple[str, ...]) -> None:
        parts = [f"{name} {record[name]:.4f}" for name in group]
        if "train_loss" in record:
            parts.append(f"training loss {record['train_loss']:.3f}")
        if KEPT_VALUES in record:
            parts.append(f"kept {record[KEPT_VALUES]}")
        place = f"{self._title}, epoch {epoch_in_words(record['epoch'])}, step {record['step']}"
        self._progress.console.print(f"{place}: {', '.join(parts)}", soft_wrap=True)


@contextmanager
def watch_progress(
    console: Console, title: str, steps: int, metrics: tuple[tuple[str, ...], ...]
) -> Iterator[ProgressWatch]:
    """Yield the trainer callback that shows the progress on `console`."""
    with progress_bar(console, TextColumn("{task.fields[note]}", markup=False)) as progress:
        yield ProgressWatch(progress, title, steps, metrics)
