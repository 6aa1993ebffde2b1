"""The folder of a run: where its files are, and when they may be written."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lora2.errors import UserError
from lora2.support.checked_files import check_fields, read_json, read_yaml
from lora2.support.extras import require
from lora2.support.files import as_json, is_temporary, temporary_start, write_atomically
from lora2.training.on_disk.run_files import DAMAGED, check_options, check_task
from lora2.training.on_disk.summary import RunSummary, check_baseline


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
    def divergence_file(self) -> Path:
        """Where a number became NaN or infinite, if one did: to resume would end the same."""
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
        return self.summary_file.exists() and self.adapter.is_dir()

    @property
    def has_diverged(self) -> bool:
        """Whether the training has ended in NaN or infinity."""
        return self.divergence_file.is_file() and not self.is_finished

    def check_is_finished(self) -> None:
        """Check that the run has been trained to its end.

        Raises:
            UserError: it has not; the sentence says how to get there.
        """
        if self.is_finished:
            return
        train = f"lora2 train --output_dir {shlex.quote(str(self.path))}"
        if self.has_diverged:
            raise UserError(
                f"{self.path} holds a run that diverged; train it again with a lower learning "
                f"rate: `{train} --overwrite` and its other options."
            )
        raise UserError(
            f"{self.path} holds a run that is not finished; resume it with `{train} --resume`."
        )

    def check_may_start(self, overwrite: bool) -> None:
        """Check that a new run may be written here; nothing is touched.

        Raises:
            UserError: something is here that would be lost.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"output_dir: {self.path} is a file; give another folder.")
        if self.path.is_symlink() and not self.path.exists():
            raise UserError(
                f"output_dir: {self.path} is a link to nothing; remove it, or give another folder."
            )
        if not self.path.is_dir() or self._is_bare():
            return
        is_rest = self._is_rest_of_run()
        if not self.is_run and not is_rest:
            raise UserError(
                f"output_dir: {self.path} holds files that are no run of lora2; give another "
                "folder."
            )
        if not overwrite:
            resume = ""
            if is_rest:
                state = "a run that was removed in part"
            elif self.is_finished:
                state = "a finished run"
            elif self.has_diverged:
                state = "a run that diverged"
            else:
                state, resume = "an unfinished run", "--resume to resume it, "
            raise UserError(
                f"output_dir: {self.path} holds {state}; add {resume}--overwrite to replace it, "
                "or give another --output_dir."
            )

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes out of the folder while this one trains into it.

        Raises:
            FolderHeldError: another process holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        # The system releases it when a process ends, however it ends.
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

    @contextmanager
    def left_as_found(self) -> Iterator[None]:
        """Remove, on an error, what this process has made here before there is anything to keep.

        A training that failed in its first step leaves no folder that would refuse the next try.
        """
        parents = [self.path, *self.path.parents]
        missing = [path for path in parents if not path.exists()]
        was_bare = bool(missing) or (self.path.is_dir() and self._is_bare())
        try:
            yield
        except Exception:
            # What cannot be removed must not hide the error.
            with suppress(OSError):
                if was_bare and self.path.is_dir():
                    # What is here now may be of another process that trains into the folder: it
                    # holds the lock, and filelock's Timeout is an OSError.
                    with FileLock(self._lock).acquire(blocking=False):
                        self._clear_without_results()
                for path in missing:
                    path.rmdir()
            raise

    def _clear_without_results(self) -> None:
        if not self._has_results():
            self._clear()
            self._lock.unlink(missing_ok=True)

    def _has_results(self) -> bool:
        """Whether a training has left something that another can use or resume from."""
        files = (
            self.metrics_file,
            self.log_file,
            self.baseline_file,
            self.summary_file,
            self.divergence_file,
        )
        return any(file.exists() for file in files) or any(self.checkpoints.glob("*"))

    def start(self, options: dict[str, Any], task: dict[str, Any]) -> None:
        """Clear the folder and write what is known before training."""
        # What cannot be written is found before anything is removed.
        contents = {
            self.task_file: as_json(task).encode(),
            # Last: from here on the folder counts as a run.
            self.config_file: as_yaml(options).encode(),
        }
        self._clear()
        self.path.mkdir(parents=True, exist_ok=True)
        for file, content in contents.items():
            write_atomically(file, content)

    def clear_unwritten(self) -> None:
        """Remove what a killed process of the run has not written to its end.

        The caller must hold the folder. What another command writes into it is left alone.
        """
        own = tuple(temporary_start(entry) for entry in self.entries)
        for entry in [*self.path.iterdir()] if self.path.is_dir() else ():
            if is_temporary(entry) and entry.name.startswith(own):
                _remove(entry)

    def check_keeps(self, option: str, path: str | Path | None) -> None:
        """Check that a new run, which clears the folder, does not clear what it reads.

        Raises:
            UserError: `path`, which an option gave, is among the files of the run that is here.
        """
        if not path or not Path(path).exists():
            return
        read = Path(path).resolve()
        if any(read.is_relative_to(entry.resolve()) for entry in self.entries):
            raise UserError(
                f"{option}: {path} is of the run in {self.path}, which a new run clears; give "
                "another --output_dir, or a copy of it."
            )

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

    def _clear(self) -> None:
        self.clear_unwritten()
        for entry in self.entries:
            if entry == self.checkpoints and entry.is_symlink() and entry.is_dir():
                # The link may lead to a larger disk, to which the next run is to write as well.
                for each in entry.glob("checkpoint-*"):
                    _remove(each)
            else:
                _remove(entry)

    def _is_bare(self) -> bool:
        """Whether nothing is here but what a run that was never started leaves."""
        return not any(self.checkpoints.glob("*")) and all(
            entry == self._lock or (entry == self.checkpoints and entry.is_dir())
            for entry in self.path.iterdir()
        )

    def _is_rest_of_run(self) -> bool:
        """Whether a run was being cleared, or started, when its process ended."""
        entries = set(self.path.iterdir())
        others = {entry for entry in entries - {*self.entries} if not is_temporary(entry)}
        return not self.is_run and others == {self._lock}

    @property
    def entries(self) -> Sequence[Path]:
        """What a new run clears: files and folders, whether they exist or not."""
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


def as_yaml(options: dict[str, Any]) -> str:
    """Return options as YAML in their own order."""
    yaml = require("yaml", extra="train")
    text: str = yaml.safe_dump(options, sort_keys=False, allow_unicode=True)
    return text


def _remove(entry: Path) -> None:
    """Remove a file, a folder with all that is in it, or a link, of which the target stays."""
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink(missing_ok=True)
