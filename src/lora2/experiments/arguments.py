"""The options of `lora2 reproduce` and `lora2 tune` as typed dataclasses, checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from lora2.errors import UserError
from lora2.experiments.execution import Place


@dataclass
class PlaceArguments:
    """Where runs are made, and how many at a time."""

    data_dir: str | None = field(
        default=None,
        metadata={"help": "Folder of the official GLUE files; without it they come from the hub."},
    )
    records: str | None = field(
        default=None,
        metadata={"help": "Folder of the records; experiments/records/<preset> unless given."},
    )
    work: str = field(
        default="runs/experiments", metadata={"help": "Folder of checkpoints of unfinished runs."}
    )
    jobs: int = field(default=1, metadata={"help": "Runs at a time; threads are divided."})
    threads: int = field(
        default=0, metadata={"help": "CPU threads of one run; 0 divides the cores by the jobs."}
    )

    def check(self) -> None:
        """Check all that can be checked before anything is read.

        Raises:
            UserError: a number out of range, or a data folder that is none.
        """
        for name, least in {"jobs": 1, "threads": 0}.items():
            if getattr(self, name) < least:
                raise UserError(f"{name}={getattr(self, name)} must be at least {least}.")
        if self.data_dir is not None and not Path(self.data_dir).is_dir():
            raise UserError(
                f"data_dir: {self.data_dir} is no folder; give the one that holds CoLA, STS-B, ..."
            )

    def records_of(self, preset: str) -> Path:
        """Return the folder of the records."""
        return Path(self.records or f"experiments/records/{preset}")

    @property
    def place(self) -> Place:
        """Where runs are made."""
        return Place(Path(self.work), self.data_dir, self.threads)
