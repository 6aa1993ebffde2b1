"""Makes runs on a Ray cluster that is there already: one remote task a run.

Which runs are made at a time, and where, is Ray's to decide; so is what becomes of one whose worker
was killed: it is tried again, and resumes from its newest checkpoint where the work folder is one
that the new worker sees.
"""

from __future__ import annotations

import logging
import socket
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lora2.errors import UserError
from lora2.lab.experiments.description import RunDescription
from lora2.lab.experiments.record import RecordFolder, RunRecord
from lora2.lab.experiments.running.execution import Place
from lora2.lab.experiments.running.own_process import clear_traces, execute_in_own_process
from lora2.lab.experiments.running.runner import Finished, Runner
from lora2.support.error_text import clause_of, one_line
from lora2.support.extras import require

logger = logging.getLogger(__name__)

_RETRIES = 3
_SECONDS_TO_ANSWER = 10
# Threads that wait for a task; one is made when it is needed.
_WAITING = 1000


@dataclass(frozen=True)
class Resources:
    """What Ray keeps free for one run.

    Attributes:
        cpus: CPU cores.
        gpus: GPUs; with 0, a run sees none.
    """

    cpus: float = 1.0
    gpus: float = 0.0


class RayRunner(Runner):
    """Makes runs on a Ray cluster.

    Args:
        records: where records are and are written, by this process, as each arrives.
        place: where runs are made, on every node.
        address: of the cluster; "auto" finds the one that this machine belongs to.
        resources: of one run.
        finished: called with every finished run.

    Raises:
        UserError: Ray is not installed.
    """

    def __init__(
        self,
        records: RecordFolder,
        place: Place,
        address: str = "auto",
        resources: Resources = Resources(),
        finished: Finished = lambda record: None,
    ) -> None:
        super().__init__(records, _WAITING, finished)
        self._ray = require("ray", extra="ray")
        threads = place.threads or max(1, int(resources.cpus))
        # A worker has another current folder.
        data_dir = place.data_dir and str(Path(place.data_dir).absolute())
        self._place = replace(place, work=place.work.absolute(), data_dir=data_dir, threads=threads)
        self._address = address
        self._resources = resources
        # After one call a worker is replaced: the peak memory of a run is its own.
        self._task = self._ray.remote(
            max_calls=1, max_retries=_RETRIES, num_cpus=resources.cpus, num_gpus=resources.gpus
        )(_execute_on_node)
        self._submitted: set[Any] = set()
        # The nodes on which runs were made: a run's work folder may be on its node's own disk.
        self._nodes: dict[RunDescription, str] = {}

    def __enter__(self) -> Self:
        try:
            _check_answers(self._address)
            self._ray.init(self._address, log_to_driver=False, logging_level="ERROR")
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(
                f"ray_address: no Ray cluster answers at {self._address} "
                f"({clause_of(error)}); start one with `ray start --head`."
            ) from error
        self._tell_if_runs_must_wait()
        return super().__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)
        self._ray.shutdown()

    def _tell_if_runs_must_wait(self) -> None:
        # It is no mistake: a cluster may add nodes when they are asked for. But Ray says nothing.
        needed = {"CPU": self._resources.cpus, "GPU": self._resources.gpus}
        for node in self._ray.nodes():
            there = node["Resources"]
            if all(there.get(name, 0) >= number for name, number in needed.items()):
                return
        logger.warning(
            "No node of the Ray cluster has %g CPU cores and %g GPUs: runs wait until one joins.",
            *needed.values(),
        )

    def _make(self, description: RunDescription) -> RunRecord:
        task = self._task.options(name=description.name).remote(description, self._place)
        self._submitted.add(task)
        # The runner may have been left in the meantime, when `_end` did not see this task yet.
        if self._closed:
            self._cancel(task)
        try:
            record: RunRecord
            record, self._nodes[description] = self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            record = RunRecord(description, "failed", error=one_line(error))
        self._submitted.discard(task)
        return record

    def _clear(self, description: RunDescription) -> None:
        node = self._nodes.pop(description, None)
        if node is None:
            return
        strategies = self._ray.util.scheduling_strategies
        there = strategies.NodeAffinitySchedulingStrategy(node, soft=False)
        clear = self._ray.remote(num_cpus=0, scheduling_strategy=there)(clear_traces)
        # The node may have gone since.
        with suppress(self._ray.exceptions.RayError):
            self._ray.get(clear.remote(description, self._place))

    def _end(self) -> None:
        for task in list(self._submitted):
            self._cancel(task)

    def _cancel(self, task: Any) -> None:
        self._ray.cancel(task, force=True)


def _execute_on_node(description: RunDescription, place: Place) -> tuple[RunRecord, str]:
    """Return the record and the node's id; called on that node."""
    node: str = require("ray", extra="ray").get_runtime_context().get_node_id()
    return execute_in_own_process(description, place), node


def _check_answers(address: str) -> None:
    # Ray itself tries for minutes, and says so again and again.
    host, _, port = address.rpartition(":")
    if port.isdecimal() and "/" not in host:
        with socket.create_connection((host.strip("[]"), int(port)), _SECONDS_TO_ANSWER):
            pass
