"""The folder of a run: where its files are, what state it is in, and what they hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora2.errors import UserError
from lora2.support.checked_files import check_fields, read_json, read_yaml
from lora2.training.on_disk.run_files import DAMAGED, check_options, check_task
from lora2.training.on_disk.summary import RunSummary, check_baseline


@dataclass(frozen=True)
class RunFolder:
    """Paths and files of one run.

    Attributes:
        path: the folder, which need not exist yet.
    """

    path: Path

    @property
    def config_file(self) -> Path:
        """All options, resolved; a file for `--config`."""
        return self.path / "config.yaml"

    @property
    def task_file(self) -> Path:
        """The description of the task, which `lora2 predict` reads."""
        return self.path / "task.json"

    @property
    def environment_file(self) -> Path:
        """Versions, machine, command and seed."""
        return self.path / "environment.json"

    @property
    def metrics_file(self) -> Path:
        """One line per evaluation."""
        return self.path / "metrics.jsonl"

    @property
    def log_file(self) -> Path:
        """One line per training log: loss, learning rate, budget."""
        return self.path / "log.jsonl"

    @property
    def baseline_file(self) -> Path:
        """The results of the head alone, if they were asked for."""
        return self.path / "baseline.json"

    @property
    def summary_file(self) -> Path:
        """Best and last, sizes, seconds, kept singular values; written when the run is done."""
        return self.path / "summary.json"

    @property
    def divergence_file(self) -> Path:
        """The error of a run that diverged, which resuming would only repeat."""
        return self.path / "diverged.json"

    @property
    def adapter(self) -> Path:
        """The finished adapter with tokenizer and model configuration."""
        return self.path / "adapter"

    @property
    def base(self) -> Path:
        """The base model, of a run that has made its own."""
        return self.path / "base"

    @property
    def checkpoints(self) -> Path:
        """The trainer's checkpoints."""
        return self.path / "checkpoints"

    @property
    def figures(self) -> Path:
        """The figures that `lora2 inspect` draws."""
        return self.path / "figures"

    @property
    def lock_file(self) -> Path:
        """The file that a process locks while it trains into the folder."""
        return self.path / ".lock"

    @property
    def entries(self) -> Sequence[Path]:
        """The files and folders that a new run clears, whether they exist or not."""
        # Files are named, because what somebody else put there is theirs. The config goes first, so
        # that a folder cleared in part does not pass for a run.
        return (
            self.config_file,
            self.summary_file,
            self.task_file,
            self.environment_file,
            self.metrics_file,
            self.log_file,
            self.baseline_file,
            self.divergence_file,
            self.adapter,
            self.base,
            self.checkpoints,
            self.figures,
        )

    @property
    def is_run(self) -> bool:
        """Whether a run has been started here."""
        return self.config_file.is_file()

    @property
    def is_finished(self) -> bool:
        """Whether the run has been trained to its end and saved."""
        return self.summary_file.exists() and self.adapter.is_dir()

    @property
    def has_diverged(self) -> bool:
        """Whether the training has ended in NaN or infinity."""
        return self.divergence_file.is_file() and not self.is_finished

    def read_options(self, *, resumes: bool = False) -> dict[str, Any]:
        """Return the options in config.yaml, all that decide what the run is.

        resumes: whether a training is to be resumed by them.

        Raises:
            UserError: there is no run here, or its config.yaml is damaged.
        """
        if not self.is_run:
            raise UserError(
                f"{self.path} is no run of lora2, since it has no {self.config_file.name}; give "
                "the folder that `lora2 train` wrote."
            )
        options = read_yaml(self.config_file, DAMAGED)
        check_options(options, self.config_file, resumes=resumes)
        return options

    def read_processes(self, default: int) -> int:
        """Return the number of processes that the run was started with.

        default: what to return where it is not known, as of older versions.

        Raises:
            UserError: environment.json is damaged.
        """
        if not self.environment_file.is_file():
            return default
        advice = "remove it, and resume with as many processes as the run was started with"
        environment: dict[str, Any] = read_json(self.environment_file, advice)
        fields = {"processes": int}
        check_fields(environment, fields, self.environment_file, advice, optional=True)
        return int(environment.get("processes", default))

    def read_task(self) -> dict[str, Any]:
        """Return what task.json holds.

        Raises:
            UserError: the file is damaged.
        """
        task: dict[str, Any] = read_json(self.task_file, DAMAGED)
        check_task(task, self.task_file)
        return task

    def read_summary(self) -> RunSummary:
        """Return the summary of a finished run.

        Raises:
            UserError: the file is damaged.
        """
        return RunSummary.read(self.summary_file)

    def read_baseline(self, metric: str) -> dict[str, Any] | None:
        """Return what the head alone reached, None if that is not known yet.

        Raises:
            UserError: the file is damaged.
        """
        if not self.baseline_file.exists():
            return None
        advice = "remove it, and the head alone is trained again"
        baseline: dict[str, Any] = read_json(self.baseline_file, advice, nan_as_null=True)
        check_baseline(baseline, metric, self.baseline_file, advice)
        return baseline
