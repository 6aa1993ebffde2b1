"""Progress of a section's measurements on the console."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

from rich.console import Console

from lora2.reports.progress_bar import progress_bar

Tick = Callable[[], object]
Watch = Callable[[str, int], AbstractContextManager[Tick]]
"""Called with a title and a number of steps; yields what is to be called after each of them."""


def watch_on(console: Console) -> Watch:
    """Return a watch that shows a bar on the console."""

    @contextmanager
    def watch(title: str, steps: int) -> Iterator[Tick]:
        with progress_bar(console) as progress:
            yield partial(progress.advance, progress.add_task(title, total=steps))

    return watch
