"""Makes runs on this machine, several at a time, each in a process of its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from dataclasses import replace
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any, Self

import torch

from lora2.errors import UserError
from lora2.lab.experiments.description import RunDescription
from lora2.lab.experiments.record import RecordFolder, RunRecord
from lora2.lab.experiments.running.execution import Place
from lora2.lab.experiments.running.own_process import clear_traces, execute_in_own_process
from lora2.lab.experiments.running.runner import Finished, Progress, Runner
from lora2.support.files import check_takes_files

_PRELOADED = ["lora2.lab.experiments.running.execution"]
_VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"


class LocalRunner(Runner):
    """Makes runs on this machine.

    Args:
        records: where records are read and written.
        place: where runs are made.
        jobs: runs at a time; the machine's threads, and its GPUs, are divided among them.
        progress: called with every step.
        finished: called with every finished run.

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
        super().__init__(records, jobs, finished)
        threads = place.threads or max(1, (os.cpu_count() or 1) // jobs)
        self._place = replace(place, threads=threads)
        # Each run takes the next free GPU; GPUs repeat where there are more jobs than GPUs.
        self._devices: SimpleQueue[str] = SimpleQueue()
        gpus = _gpus() or [""]
        for job in range(jobs):
            self._devices.put(gpus[job % len(gpus)])
        self._progress = progress
        self._running: set[Any] = set()
        self._context = multiprocessing.get_context("forkserver")
        # What takes seconds to import is imported once; each process starts with it.
        self._context.set_forkserver_preload(_PRELOADED)

    def __enter__(self) -> Self:
        # It is checked here, where it is one mistake of the user and not one failure a run.
        check_takes_files("work", self._place.work)
        self._place.work.mkdir(parents=True, exist_ok=True)
        _start_fork_server()
        return super().__enter__()

    def _make(self, description: RunDescription) -> RunRecord:
        device = self._devices.get()
        try:
            return self._make_on(device, description)
        finally:
            self._devices.put(device)

    def _make_on(self, device: str, description: RunDescription) -> RunRecord:
        receive, send = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=_child, args=(device, description, self._place, send)
        )
        process.start()
        # The child's is then the only open end, and it closes when the child is gone.
        send.close()
        self._running.add(process)
        # The runner may have been left in the meantime, when `_end` did not see this process yet.
        if self._closed:
            process.terminate()
        record = self._listen(description, receive)
        process.join()
        self._running.discard(process)
        if record is None:
            error = f"the process ended with exit code {process.exitcode} and left no record"
            record = RunRecord(description, "failed", error=error)
        return record

    def _listen(self, description: RunDescription, receive: Connection) -> RunRecord | None:
        # Python raises EOFError between two messages, and OSError within one.
        with receive, contextlib.suppress(EOFError, OSError):
            while True:
                message = receive.recv()
                if isinstance(message, RunRecord):
                    return message
                self._progress(description, *message)
        return None

    def _clear(self, description: RunDescription) -> None:
        clear_traces(description, self._place)

    def _end(self) -> None:
        for process in list(self._running):
            process.terminate()


def _start_fork_server() -> None:
    """Start the process that the runs are forked from, so that no interrupt reaches it.

    Ctrl-C goes to all processes of a terminal, and this one ignores it only once it has imported
    what it is to import first.
    """
    # The fork server needs the resource tracker, and Python unblocks SIGINT when it starts that.
    resource_tracker.ensure_running()
    # What is blocked here is blocked in it from its first moment on.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _gpus() -> list[str]:
    """Return the names in CUDA_VISIBLE_DEVICES of the GPUs that this process may use."""
    names = os.environ.get(_VISIBLE_GPUS)
    count = torch.cuda.device_count()
    return names.split(",")[:count] if names else [str(index) for index in range(count)]


def _child(device: str, description: RunDescription, place: Place, send: Connection) -> None:
    # It is set before anything asks for a GPU, and is empty where there is none.
    os.environ[_VISIBLE_GPUS] = device
    # Ctrl-C reaches all processes of a terminal; the parent ends its children itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    send.send(
        execute_in_own_process(description, place, lambda done, steps: send.send((done, steps)))
    )
