"""The options of `lora2 reproduce` and `lora2 tune` as typed dataclasses, checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lora2.errors import UserError
from lora2.lab.experiments.execution import Place
from lora2.lab.experiments.jobs import LocalRunner
from lora2.lab.experiments.ray_runner import RayRunner, Resources
from lora2.lab.experiments.record import RecordFolder
from lora2.lab.experiments.runner import Finished, Progress, Runner


@dataclass
class PlaceArguments:
    """Where runs are made, and how many at a time."""

    data_dir: str | None = field(
        default=None,
        metadata={"help": "Folder of the official GLUE files; without it they come from the hub."},
    )
    records: str | None = field(
        default=None,
        metadata={"help": "Folder of the records; records/<preset> unless given."},
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
            UserError: a number out of range, or a data folder that is none.
        """
        least_of = {"jobs": 1, "threads": 0, "cpus_per_run": 0, "gpus_per_run": 0}
        for name, least in least_of.items():
            if getattr(self, name) < least:
                raise UserError(f"{name}={getattr(self, name)} must be at least {least}.")
        if self.gpus_per_run > 1:
            raise UserError(
                f"gpus_per_run={self.gpus_per_run}: a run trains on one GPU; give at most 1."
            )
        if self.data_dir is not None and not Path(self.data_dir).is_dir():
            raise UserError(
                f"data_dir: {self.data_dir} is no folder; give the one that holds CoLA, STS-B, ..."
            )

    def records_of(self, preset: str) -> Path:
        """Return the folder of the records."""
        return Path(self.records or f"records/{preset}")

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
