"""The options that `lora2 reproduce` and `lora2 tune` share: where runs are made, and how many."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lora2.errors import UserError
from lora2.lab.experiments.presets.registry import PRESETS
from lora2.lab.experiments.record import RecordFolder
from lora2.lab.experiments.running.execution import Place
from lora2.lab.experiments.running.jobs import LocalRunner
from lora2.lab.experiments.running.ray_runner import RayRunner, Resources
from lora2.lab.experiments.running.runner import Finished, Progress, Runner
from lora2.support.files import check_may_be_folder
from lora2.support.ranges import Range, check_number
from lora2.training.options.idle_options import refuse_idle

_RANGES = {
    "jobs": Range(1, 2**31, whole_from=1),
    "threads": Range(0, 2**31, whole_from=0),
    "cpus_per_run": Range(0),
    "gpus_per_run": Range(0),
}
_OF_RAY = ("ray_address", "cpus_per_run", "gpus_per_run")


@dataclass
class PlaceArguments:
    """Where runs are made, and how many at a time."""

    data_dir: str | None = field(
        default=None,
        metadata={"help": "Folder of the official GLUE files; without it they come from the hub."},
    )
    records: str | None = field(
        default=None,
        metadata={
            "help": "Folder of the records; unless given, records/<preset>, and records/small for "
            "leaderboard, which has runs in common with it."
        },
    )
    work: str = field(
        default="runs/experiments", metadata={"help": "Folder of checkpoints of unfinished runs."}
    )
    launcher: Literal["local", "ray"] = field(
        default="local",
        metadata={"help": "local: processes of this machine; ray: tasks of a Ray cluster."},
    )
    jobs: int = field(
        default=1, metadata={"help": "Runs at a time on this machine; threads are divided."}
    )
    threads: int = field(
        default=0,
        metadata={
            "help": "CPU threads of one run; 0 divides the cores by the jobs, and on Ray takes "
            "cpus_per_run."
        },
    )
    ray_address: str = field(
        default="auto",
        metadata={"help": "The cluster; auto finds the one that this machine belongs to."},
    )
    cpus_per_run: float = field(
        default=1.0, metadata={"help": "CPU cores that Ray keeps free for one run."}
    )
    gpus_per_run: float = field(
        default=0.0, metadata={"help": "1, or the share of a GPU that Ray gives one run; 0: none."}
    )

    def check(self) -> None:
        """Check all that can be checked before anything is read.

        Raises:
            UserError: a number out of range, or a folder that cannot be one.
        """
        for name, allowed in _RANGES.items():
            check_number(name, getattr(self, name), allowed)
        if self.gpus_per_run > 1:
            raise UserError(
                f"gpus_per_run={self.gpus_per_run}: a run trains on one GPU; give at most 1."
            )
        for name in ("records", "work"):
            check_may_be_folder(name, getattr(self, name))

    def check_effects(self, typed: Mapping[str, Any]) -> None:
        """Check that the options have an effect that the command line names.

        Raises:
            UserError: one is of the other launcher.
        """
        if self.launcher == "local":
            refuse_idle(typed, _OF_RAY, "without --launcher ray")
        else:
            refuse_idle(typed, ("jobs",), "with --launcher ray, which has its own queue")

    def records_of(self, preset: str) -> Path:
        """Return the folder of the records of a preset."""
        return Path(self.records or f"records/{PRESETS[preset].records}")

    @property
    def place(self) -> Place:
        """Where runs are made."""
        return Place(Path(self.work), self.data_dir, self.threads)

    def runner(self, records: RecordFolder, progress: Progress, finished: Finished) -> Runner:
        """Return what makes the runs.

        Raises:
            UserError: a package is missing.
        """
        if self.launcher == "ray":
            resources = Resources(self.cpus_per_run, self.gpus_per_run)
            return RayRunner(records, self.place, self.ray_address, resources, finished)
        return LocalRunner(records, self.place, self.jobs, progress, finished)
