"""Runs descriptions, several at a time, each in a process of its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from lora2.errors import UserError
from lora2.experiments.description import RunDescription
from lora2.experiments.execution import Place, execute
from lora2.experiments.record import RecordFolder, RunRecord

Progress = Callable[[RunDescription, int, int], object]
"""Called with a run, its steps done and its steps in all; from several threads."""
Finished = Callable[[RunRecord], object]
"""Called with the record of a run, new or found; from several threads."""

_PRELOADED = ["lora2.experiments.execution"]
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Runner:
    """Makes the runs that have no record yet, as a context manager that ends them when left.

    A run has a process to itself: its peak memory is its own, and one that the system kills leaves
    the record of a failure, as any other that fails does. What is ended early goes on from its
    newest checkpoint the next time.

    Args:
        records: where records lie and are written.
        place: where runs are made.
        jobs: runs at a time; the machine's threads are divided among them.
        progress: told of every step.
        finished: told of every run.

    Raises:
        UserError: fewer than one job.
    """

    def __init__(
        self,
        records: RecordFolder,
        place: Place,
        jobs: int = 1,
        progress: Progress = lambda description, done, steps: None,
        finished: Finished = lambda record: None,
    ) -> None:
        if jobs < 1:
            raise UserError(f"jobs={jobs} must be at least 1.")
        threads = place.threads or max(1, (os.cpu_count() or 1) // jobs)
        self._records = records
        self._place = replace(place, threads=threads)
        self._progress = progress
        self._finished = finished
        self._executor = ThreadPoolExecutor(jobs)
        self._running: set[Any] = set()
        self._ended = False
        self._context = multiprocessing.get_context("forkserver")
        # What takes seconds to import is imported once; each process starts with it.
        self._context.set_forkserver_preload(_PRELOADED)

    def __enter__(self) -> Runner:
        self._place.work.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended = True
        self._executor.shutdown(wait=False, cancel_futures=True)
        for process in list(self._running):
            process.terminate()

    def run(self, description: RunDescription) -> RunRecord:
        """Return the record of a run, after making it if there is none or it has failed."""
        found = self._records.find(description)
        if found is not None and found.finished:
            self._finished(found)
            return found
        record = self._make(description)
        # A run that was ended from outside has not failed.
        if record.finished or not self._ended:
            self._records.write(record)
            self._finished(record)
        return record

    def each(self, work: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
        """Yield what `work` returns for each item, as many at a time as there are jobs."""
        for future in as_completed([self._executor.submit(work, item) for item in items]):
            yield future.result()

    def _make(self, description: RunDescription) -> RunRecord:
        receive, send = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_child, args=(description, self._place, send))
        process.start()
        # The child's is then the only open end, and it closes when the child is gone.
        send.close()
        self._running.add(process)
        record = self._listen(description, receive)
        process.join()
        self._running.discard(process)
        if record is None:
            error = f"the process ended with exit code {process.exitcode} and left no record"
            record = RunRecord(description, "failed", error=error)
        return record

    def _listen(self, description: RunDescription, receive: Connection) -> RunRecord | None:
        with contextlib.suppress(EOFError):
            while True:
                message = receive.recv()
                if isinstance(message, RunRecord):
                    return message
                self._progress(description, *message)
        return None


def _child(description: RunDescription, place: Place, send: Connection) -> None:
    # Ctrl-C reaches all processes of a terminal; the parent ends its children itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    log = place.work / f"{description.name}.log"
    _send_output_to(log)
    record = execute(description, place, lambda done, steps: send.send((done, steps)))
    if record.finished:
        log.unlink()
    send.send(record)


def _send_output_to(path: Path) -> None:
    """Send what a run prints to a file, below Python, so that libraries' warnings go there too."""
    with path.open("w", encoding="utf-8") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
