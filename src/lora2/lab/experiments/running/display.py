"""One progress display for many runs: a bar for all, and one for each that is being made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, TaskID

from lora2.lab.experiments.description import RunDescription
from lora2.lab.experiments.record import RunRecord
from lora2.reports.progress_bar import progress_bar


class Display:
    """Bars on a terminal, and a line for each finished run everywhere."""

    def __init__(self, progress: Progress, title: str, runs: int) -> None:
        self._progress = progress
        self._all = progress.add_task(title, total=runs)
        self._bars: dict[str, TaskID] = {}
        self._titles: dict[str, str] = {}

    def entitle(self, description: RunDescription, title: str) -> None:
        """Call a run by this title, and not by its task, method and seed."""
        self._titles[description.identity] = title

    def step(self, description: RunDescription, done: int, steps: int) -> None:
        """Move the bar of a run."""
        key = description.identity
        if key not in self._bars:
            self._bars[key] = self._progress.add_task(self._title(description), total=steps)
        self._progress.update(self._bars[key], completed=done)

    def finish(self, record: RunRecord) -> None:
        """Print what a run reached, and take its bar away."""
        bar = self._bars.pop(record.description.identity, None)
        if bar is not None:
            self._progress.remove_task(bar)
        self._progress.advance(self._all)
        title = f"{self._title(record.description)} ({record.description.identity})"
        self._progress.console.print(_line(title, record), soft_wrap=True)

    def _title(self, description: RunDescription) -> str:
        usual = f"{description.task} {description.method} seed {description.seed}"
        return self._titles.get(description.identity, usual)


def _line(title: str, record: RunRecord) -> str:
    if not record.finished:
        return f"{title}: {record.status}, {record.error}"
    if record.best is None or record.last is None:
        return f"{title}: done, never evaluated"
    best, last = record.best[record.main_metric], record.last[record.main_metric]
    return f"{title}: {record.main_metric} best {best:.4f}, last {last:.4f}, {record.seconds:.0f} s"


@contextmanager
def display(console: Console, title: str, runs: int) -> Iterator[Display]:
    """Show the progress of many runs while the block lasts."""
    with progress_bar(console) as progress:
        yield Display(progress, title, runs)
