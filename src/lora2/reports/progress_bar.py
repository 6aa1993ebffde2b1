"""The progress bar that all commands show."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


def progress_bar(console: Console, *last: ProgressColumn) -> Progress:
    """Return a bar with a title, steps and times, then the given columns; it vanishes when done.

    Where the console is no terminal, no bar is shown.
    """
    return _Bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        *last,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


class _Bar(Progress):
    def stop(self) -> None:
        # Before version 14.3, rich prints an empty line here, even for a bar that is not shown.
        if not self.disable:
            super().stop()
