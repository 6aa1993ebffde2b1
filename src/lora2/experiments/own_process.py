"""What the process of one run does: it trains, and what it prints goes to a file."""

from __future__ import annotations

import os
from pathlib import Path

from lora2.experiments.description import RunDescription
from lora2.experiments.execution import Place, Tick, execute
from lora2.experiments.record import RunRecord


def log_file(description: RunDescription, place: Place) -> Path:
    """Return where a run's output lies while it goes on, and after it has failed."""
    return place.work / f"{description.name}.log"


def execute_in_own_process(
    description: RunDescription, place: Place, tick: Tick | None = None
) -> RunRecord:
    """Make a run in a process that makes no other, and return its record."""
    place.work.mkdir(parents=True, exist_ok=True)
    log = log_file(description, place)
    _send_output_to(log)
    record = execute(description, place, tick)
    if record.finished:
        log.unlink(missing_ok=True)
    return record


def _send_output_to(path: Path) -> None:
    """Send what a run prints to a file, below Python, so that libraries' warnings go there too."""
    with path.open("w", encoding="utf-8") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
