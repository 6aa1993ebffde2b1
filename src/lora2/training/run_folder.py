"""The folder of a run: what lies where, and when it may be written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lora2.errors import UserError
from lora2.support.extras import require
from lora2.support.files import write_atomically, write_json_atomically


class FolderHeldError(UserError):
    """Another process is training into the folder."""


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
        """What `lora2 predict` must know of the data."""
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
        """What the head alone reached, if it was asked for."""
        return self.path / "baseline.json"

    @property
    def summary_file(self) -> Path:
        """Best and last, sizes, seconds, kept singular values; written when the run is done."""
        return self.path / "summary.json"

    @property
    def adapter(self) -> Path:
        """The finished adapter with tokenizer and model configuration."""
        return self.path / "adapter"

    @property
    def checkpoints(self) -> Path:
        """The trainer's checkpoints."""
        return self.path / "checkpoints"

    @property
    def figures(self) -> Path:
        """What `lora2 inspect` draws."""
        return self.path / "figures"

    @property
    def _lock(self) -> Path:
        return self.path / ".lock"

    @property
    def is_run(self) -> bool:
        """Whether a run has been started here."""
        return self.config_file.is_file()

    @property
    def is_finished(self) -> bool:
        """Whether the run has been trained to its end and saved."""
        return self.summary_file.is_file() and self.adapter.is_dir()

    def check_may_start(self, overwrite: bool) -> None:
        """Check that a new run may be written here; nothing is touched.

        Raises:
            UserError: something stands here that would be lost.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"output_dir: {self.path} is a file; give another folder.")
        if not self.path.is_dir() or self._is_bare():
            return
        if not self.is_run:
            raise UserError(
                f"output_dir: {self.path} holds files that are no run of lora2; give another "
                "folder."
            )
        if not overwrite:
            state = "a finished" if self.is_finished else "an unfinished"
            mend = "" if self.is_finished else "--resume to go on with it, "
            raise UserError(
                f"output_dir: {self.path} holds {state} run; add {mend}--overwrite to replace it, "
                "or give another --output_dir."
            )

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes out of the folder while this one trains into it.

        Raises:
            FolderHeldError: another process holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        # The system lets go of it when a process ends, however it ends.
        lock = FileLock(self._lock)
        try:
            lock.acquire(blocking=False)
        except Timeout as error:
            raise FolderHeldError(
                f"output_dir: another process is training into {self.path}; wait for its end, or "
                "give another folder."
            ) from error
        try:
            yield
        finally:
            lock.release()

    def start(self, options: dict[str, Any], task: dict[str, Any]) -> None:
        """Clear the folder and write what is known before training."""
        for entry in self._entries():
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink(missing_ok=True)
        self.path.mkdir(parents=True, exist_ok=True)
        write_json_atomically(self.task_file, task)
        # Last: from here on the folder counts as a run.
        write_atomically(self.config_file, as_yaml(options))

    def read_options(self) -> Any:
        """Return the text of config.yaml as a dictionary.

        Raises:
            UserError: there is no run here.
        """
        if not self.is_run:
            raise UserError(
                f"{self.path} is no run of lora2, since it has no {self.config_file.name}; give "
                "the folder that `lora2 train` wrote."
            )
        yaml = require("yaml", extra="train")
        return yaml.safe_load(self.config_file.read_text(encoding="utf-8"))

    def read_task(self) -> dict[str, Any]:
        """Return what task.json holds."""
        content: dict[str, Any] = json.loads(self.task_file.read_text(encoding="utf-8"))
        return content

    def read_summary(self) -> dict[str, Any] | None:
        """Return the summary, or None while the run is not finished."""
        if not self.is_finished:
            return None
        content: dict[str, Any] = json.loads(self.summary_file.read_text(encoding="utf-8"))
        return content

    def _is_bare(self) -> bool:
        """Whether nothing is here but what a run that was never started leaves."""
        return not any(self.checkpoints.glob("*")) and all(
            entry in (self._lock, self.checkpoints) for entry in self.path.iterdir()
        )

    def _entries(self) -> Sequence[Path]:
        # By name, never the whole folder: what somebody put beside the run is theirs. The config
        # goes first, so that a folder cleared in part does not pass for a run.
        return (
            self.config_file,
            self.summary_file,
            self.task_file,
            self.environment_file,
            self.metrics_file,
            self.log_file,
            self.baseline_file,
            self.adapter,
            self.checkpoints,
            self.figures,
        )


def as_yaml(options: dict[str, Any]) -> str:
    """Return options as YAML in their own order."""
    yaml = require("yaml", extra="train")
    text: str = yaml.safe_dump(options, sort_keys=False, allow_unicode=True)
    return text
