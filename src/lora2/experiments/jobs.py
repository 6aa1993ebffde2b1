"""Runs many descriptions, several at a time, each in a process of its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from lora2.errors import UserError
from lora2.experiments.description import RunDescription
from lora2.experiments.execution import Place, execute
from lora2.experiments.record import RecordFolder, RunRecord

Progress = Callable[[RunDescription, int, int], object]
"""Called with a run, its steps done and its steps in all; from several threads."""

_PRELOADED = ["lora2.experiments.execution"]


def run_all(
    descriptions: Sequence[RunDescription],
    records: RecordFolder,
    place: Place,
    *,
    jobs: int = 1,
    progress: Progress = lambda description, done, steps: None,
) -> Iterator[RunRecord]:
    """Run every description, `jobs` at a time; write each record, and yield it, once it is there.

    A run has a process to itself: its peak memory is its own, and one that the system kills leaves
    the record of a failure, as any other that fails does. When this generator is closed or
    interrupted, the runs are ended; they go on from their checkpoints the next time.

    Raises:
        UserError: fewer than one job.
    """
    if jobs < 1:
        raise UserError(f"jobs={jobs} must be at least 1.")
    place.work.mkdir(parents=True, exist_ok=True)
    threads = place.threads or max(1, (os.cpu_count() or 1) // jobs)
    processes = _Processes(replace(place, threads=threads), progress)
    executor = ThreadPoolExecutor(jobs)
    try:
        futures = [executor.submit(processes.run, description) for description in descriptions]
        for future in as_completed(futures):
            records.write(future.result())
            yield future.result()
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        processes.end()


class _Processes:
    """Starts a process for each run and waits for what it says."""

    def __init__(self, place: Place, progress: Progress) -> None:
        self._place = place
        self._progress = progress
        self._running: set[Any] = set()
        self._context = multiprocessing.get_context("forkserver")
        # What takes seconds to import is imported once; each process starts with it.
        self._context.set_forkserver_preload(_PRELOADED)

    def run(self, description: RunDescription) -> RunRecord:
        """Run one description to its end and return its record."""
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

    def end(self) -> None:
        """End all runs that still go on."""
        for process in list(self._running):
            process.terminate()

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
    with _output_into(place.work / f"{description.name}.log") as log:
        record = execute(description, place, lambda done, steps: send.send((done, steps)))
    if record.finished:
        log.unlink()
    send.send(record)


@contextlib.contextmanager
def _output_into(path: Path) -> Iterator[Path]:
    """Send what a run prints to a file, below Python, so that libraries' warnings go there too."""
    with path.open("w", encoding="utf-8") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
        yield path
