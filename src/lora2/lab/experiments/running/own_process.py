"""What the process of one run does, and what it leaves in the work folder."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from lora2.lab.experiments.description import RunDescription
from lora2.lab.experiments.record import RunRecord
from lora2.lab.experiments.running.execution import Place, Tick, execute_run
from lora2.training.on_disk.run_folder import RunFolder
from lora2.training.on_disk.run_lock import FolderHeldError, held


def log_file(description: RunDescription, place: Place) -> Path:
    """Return the file of a run's output during the run, and after it has failed."""
    return place.work / f"{description.name}.log"


def execute_in_own_process(
    description: RunDescription, place: Place, tick: Tick | None = None
) -> RunRecord:
    """Make a run in a process that makes no other, and return its record."""
    place.work.mkdir(parents=True, exist_ok=True)
    _send_output_to(log_file(description, place))
    return execute_run(description, place, tick)


def clear_traces(description: RunDescription, place: Place) -> None:
    """Remove checkpoints and output of a run whose record is safe, if no process is at it again."""
    folder = RunFolder(place.work / description.name)
    if not folder.path.is_dir():
        return
    # The run has its record, even where its folder cannot be cleared.
    with suppress(FolderHeldError, OSError), held(folder):
        log_file(description, place).unlink(missing_ok=True)
        # A network disk keeps a file that is open, as the lock is, which harms nothing.
        shutil.rmtree(folder.path, ignore_errors=True)


def _send_output_to(path: Path) -> None:
    """Send what a run prints to a file, below Python, so that libraries' warnings go there too."""
    # The file is not emptied: another process may be making the run, and writing here.
    with path.open("a", encoding="utf-8") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
