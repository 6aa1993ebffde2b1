"""Makes the runs that have no record yet; where they are made is for each kind of runner."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from types import TracebackType
from typing import Self, TypeVar

from lora2.lab.experiments.description import RunDescription
from lora2.lab.experiments.record import RecordFolder, RunRecord

Progress = Callable[[RunDescription, int, int], object]
"""Called with a run, its steps done and its steps in all; from several threads."""
Finished = Callable[[RunRecord], object]
"""Called with the record of a run, new or found; from several threads."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class RunnerClosedError(Exception):
    """The runner was left: what it was making has ended without a record, and no more is made."""


class Runner(ABC):
    """Makes the runs that have no record yet, as a context manager that ends them when left.

    A run has a process to itself: its peak memory is its own, and one that the system kills leaves
    the record of a failure, as any other that fails does. What is ended early resumes from its
    newest checkpoint the next time.

    Args:
        records: where records are read and written.
        at_a_time: how many items `each` works on at a time.
        finished: called with every finished run.
    """

    def __init__(self, records: RecordFolder, at_a_time: int, finished: Finished) -> None:
        self._records = records
        self._finished = finished
        self._executor = ThreadPoolExecutor(at_a_time)
        self._closed = False

    def __enter__(self) -> Self:
        # It is checked here, where it is one mistake of the user, and not after hours of training.
        self._records.create()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closed = True
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._end()
        # The thread of what has been ended continues; until then it may still write a record.
        self._executor.shutdown()

    def run(self, description: RunDescription) -> RunRecord:
        """Return the record of a run, after making it if there is none or it has failed.

        Nothing is written of a run that another process is making.

        Raises:
            RunnerClosedError: the runner was left before the run came to its end.
        """
        record = self._found(description) or self._made(description)
        if record.is_result:
            self._clear(description)
        self._finished(record)
        return record

    def _found(self, description: RunDescription) -> RunRecord | None:
        found = self._records.find(description)
        return found if found is not None and found.is_result else None

    def _made(self, description: RunDescription) -> RunRecord:
        if self._closed:
            raise RunnerClosedError
        record = self._make(description)
        # A run that was ended from outside has not failed.
        if self._closed and not record.is_result:
            raise RunnerClosedError
        # Another process may have made it in the meantime, whatever became of it here.
        found = self._found(description)
        if found is not None:
            return found
        if record.status != "elsewhere":
            self._records.write(record)
        return record

    def each(self, work: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
        """Yield what `work` returns for each item, in the order in which they are done."""
        for future in as_completed([self._executor.submit(work, item) for item in items]):
            yield future.result()

    @abstractmethod
    def _make(self, description: RunDescription) -> RunRecord:
        """Make a run in a process of its own; called from several threads."""

    @abstractmethod
    def _clear(self, description: RunDescription) -> None:
        """Remove what a run whose record is written has left where it was made."""

    @abstractmethod
    def _end(self) -> None:
        """End all runs that are being made; none that is started afterwards continues."""
