"""How a section tells how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Tick = Callable[[], object]
Watch = Callable[[str, int], AbstractContextManager[Tick]]
"""Called with a title and a number of steps; yields what is to be called after each of them."""


def watch_on(console: Console) -> Watch:
    """Return a watch that shows a bar on the console."""

    @contextmanager
    def watch(title: str, steps: int) -> Iterator[Tick]:
        progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        with progress:
            yield partial(progress.advance, progress.add_task(title, total=steps))

    return watch


@contextmanager
def unwatched(title: str, steps: int) -> Iterator[Tick]:
    """A watch that shows nothing."""
    yield lambda: None
