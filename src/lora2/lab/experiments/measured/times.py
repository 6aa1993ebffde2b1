"""Measured seconds of training steps on a task, and their file in a folder of records."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from lora2.errors import UserError
from lora2.lab.benchmarks.record import device_name
from lora2.lab.experiments.description import RunDescription
from lora2.support.checked_files import read_json
from lora2.support.field_types import fits
from lora2.support.files import write_json_atomically
from lora2.training.on_disk.environment import versions

ITERATIONS = "iteration-times"
"""The files of Table 2 begin with it."""


@dataclass(frozen=True)
class MeasuredTimes:
    """What was measured on one task.

    Attributes:
        task: name of the task.
        model: the model whose weights and tokenizer were used.
        batch_size: rows of a batch.
        seconds: by method, or by row of a table, of whole training steps on the same batches: one
            number a round.
        threads: CPU threads of torch.
        device: name of the CPU or the card.
        versions: of Python and the packages.
        measured: what the file's name begins with. The rows of a table have another than Table 2,
            because two presets keep their records in one folder; early files of Table 2 lack it.
    """

    task: str
    model: str
    batch_size: int
    seconds: dict[str, list[float]]
    threads: int
    device: str
    versions: dict[str, str]
    measured: str = ITERATIONS

    @classmethod
    def measured_here(
        cls,
        description: RunDescription,
        batch_size: int,
        seconds: dict[str, list[float]],
        device: str,
        measured: str,
    ) -> MeasuredTimes:
        """Return the times of a run's model and task, with what this process measured them on.

        device: "cpu" or "cuda".
        """
        return cls(
            task=description.task,
            model=description.model,
            batch_size=batch_size,
            seconds=seconds,
            threads=torch.get_num_threads(),
            device=device_name(device),
            versions=versions(),
            measured=measured,
        )

    @property
    def measured_with(self) -> str:
        """Model, device and threads, for a note below a table."""
        return f"{self.model} on {self.device}, {self.threads} threads"

    def write(self, folder: Path) -> None:
        """Write the record, in one step."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json_atomically(file_of(folder, self.model, self.task, self.measured), asdict(self))


def file_of(folder: Path, model: str, task: str, measured: str) -> Path:
    """Return the file of a model's times on a task, which may not exist."""
    name = model.replace("/", "--")
    return folder / f"{measured}-{name}-{task}.json"


def read_times(
    folder: Path,
    description: RunDescription,
    rounds: int,
    methods: Iterable[str],
    measured: str,
) -> MeasuredTimes | None:
    """Return the times of a model on a task, None if they have not been measured.

    Args:
        folder: of the records.
        description: its model and task are read.
        rounds: so many at least.
        methods: their times are returned, in this order; more may have been measured.
        measured: what the file's name begins with.

    Raises:
        UserError: the file is damaged.
    """
    path = file_of(folder, description.model, description.task, measured)
    if not path.is_file():
        return None
    content = read_json(path, "it holds no measured times that can be read; remove it")
    try:
        times = MeasuredTimes(**content)
        found = min(map(len, times.seconds.values()))
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} holds no measured times ({error}); remove it.") from error
    columns = list(times.seconds.values())
    numbers = [value for column in columns for value in column]
    if not all(fits(each, float) and each > 0 for each in numbers) or len({*map(len, columns)}) > 1:
        raise UserError(
            f"{path}: seconds must be as many numbers above 0 of each method; remove the file."
        )
    wanted = list(methods)
    is_whole = found >= rounds and times.seconds.keys() >= set(wanted)
    if times.model != description.model or not is_whole:
        return None
    return replace(times, seconds={name: times.seconds[name] for name in wanted})
