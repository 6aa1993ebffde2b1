"""The record of a run: one JSON file, written once, that holds all a table or figure needs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_type_hints

from lora2.errors import UserError
from lora2.lab.experiments.description import RunDescription
from lora2.support.checked_files import read_json
from lora2.support.field_types import fits, in_words, shortened
from lora2.support.files import check_takes_files, write_json_atomically

Status = Literal["finished", "diverged", "failed", "elsewhere"]
_DAMAGED = "it is not a record of a run that can be read; remove it"
_WRITTEN = ("finished", "diverged", "failed")


@dataclass(frozen=True)
class RunRecord:
    """What a run did.

    Attributes:
        description: what was run.
        status: whether it came to its end; "diverged" where a number became NaN or infinite,
            which is a result, "failed" where anything else went wrong; "elsewhere", and no record
            on disk, while another process makes the run.
        error: of a run without an end, what went wrong.
        main_metric: the metric that decides which evaluation is the best, a key of evaluations.
        evaluations: one entry an evaluation: step, epoch and all metrics (as fractions).
        best: the entry of `evaluations` with the highest main metric.
        last: the last entry.
        trainable_parameters: trained at the start, of the "adapter" and of the "head".
        final_parameters: left at the end, after pruning, likewise.
        steps: optimizer steps.
        resumed_from_step: where it was last resumed; None if it never was.
        seconds: of training, evaluations and checkpoints included, since it was last resumed.
        seconds_per_step: the median over the steps, without evaluations.
        peak_memory: largest resident set of the process, in bytes; on a GPU, of its allocator.
        kept: of a LoRA² adapter, singular values left in each module, by module name.
        initial: singular values that each module started with; None for other methods, and where
            the modules started with different numbers.
        cuts: one entry for each of the description's cuts: its size, the parameters that are left
            (as a LoRA's), the error of the change, and all metrics.
        forgotten: what of the base model's ability was lost on other texts: the mean `distance`
            of an encoder's hidden states, or `loss_before` and `loss_after` of a language model.
        file_bytes: of the saved adapter, the head with it; None where none is saved.
        versions: of Python and the packages that decide what a run computes.
        machine: processor and the kernels torch takes on it, cores, threads, accelerators.
    """

    description: RunDescription
    status: Status
    error: str | None = None
    main_metric: str = ""
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    last: dict[str, Any] | None = None
    trainable_parameters: dict[str, int] = field(default_factory=dict)
    final_parameters: dict[str, int] = field(default_factory=dict)
    steps: int = 0
    resumed_from_step: int | None = None
    seconds: float = 0.0
    seconds_per_step: float | None = None
    peak_memory: int | None = None
    kept: dict[str, int] = field(default_factory=dict)
    initial: int | None = None
    cuts: list[dict[str, Any]] = field(default_factory=list)
    forgotten: dict[str, float] = field(default_factory=dict)
    file_bytes: int | None = None
    versions: dict[str, str] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return self.status == "finished"

    def cut(self, size: int) -> dict[str, Any]:
        """Return what the adapter reached when it was cut to this size.

        Raises:
            KeyError: it was not cut to this size.
        """
        return {entry["size"]: entry for entry in self.cuts}[size]

    @property
    def is_result(self) -> bool:
        """Whether the run has shown what it does, so that it need not be made again."""
        return self.status in ("finished", "diverged")

    def to_dict(self) -> dict[str, Any]:
        """Return the record, ready for JSON."""
        content = {"identity": self.description.identity, **asdict(self)}
        # Records stay what they were before there were these.
        for name in ("cuts", "forgotten", "file_bytes"):
            if not content[name]:
                del content[name]
        return content | {"description": self.description.to_dict()}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> RunRecord:
        """Return the record that `to_dict` gave.

        Raises:
            ValueError: the status is none; other faults raise what reading them raises.
        """
        if content["status"] not in _WRITTEN:
            raise ValueError(f"status {content['status']!r}")
        values = {name: value for name, value in content.items() if name != "identity"}
        for name, hint in _HINTS.items():
            if name in values and not fits(values[name], hint):
                raise ValueError(f"{name} is {shortened(values[name])}, and not {in_words(hint)}")
        values["description"] = RunDescription.from_dict(content["description"])
        for name in ("evaluations", "cuts"):
            values[name] = [_with_nan(entry) for entry in content.get(name, [])]
        for name in ("best", "last"):
            values[name] = _with_nan(content[name]) if content.get(name) else None
        return cls(**values)


# JSON has no NaN, so files hold null.
_METRICS = dict[str, int | float | None]
_HINTS: dict[str, Any] = get_type_hints(RunRecord) | {
    "evaluations": list[_METRICS],
    "best": _METRICS | None,
    "last": _METRICS | None,
    "cuts": list[_METRICS],
    "forgotten": _METRICS,
    # What is in it is checked where it becomes a RunDescription.
    "description": dict,
}


def _with_nan(evaluation: dict[str, Any]) -> dict[str, Any]:
    """Return an evaluation with NaN where its file has null."""
    return {name: math.nan if value is None else value for name, value in evaluation.items()}


def _check_known(path: Path, content: dict[str, Any]) -> None:
    unknown = sorted(content.keys() - {"identity", *(each.name for each in fields(RunRecord))})
    if unknown:
        raise UserError(
            f"{path} is not a record of a run that this version of lora2 can read, which does not "
            f"know {', '.join(map(shortened, unknown))}; remove it, or use the version that wrote "
            "it."
        )


class RecordFolder:
    """A folder of records, one file a run, by the identity of its description."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def file_of(self, description: RunDescription) -> Path:
        """Return the file of a run's record, which may not exist."""
        return self.path / f"{description.name}.json"

    def find(self, description: RunDescription) -> RunRecord | None:
        """Return the record of a run, None if there is none yet.

        Raises:
            UserError: the file is no record, or the record of another run.
        """
        path = self.file_of(description)
        if not path.is_file():
            return None
        content = read_json(path, _DAMAGED, nan_as_null=True)
        _check_known(path, content)
        try:
            record = RunRecord.from_dict(content)
            is_of_another = record.description != description
            if record.finished:
                for size in record.description.cuts:
                    record.cut(size)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is not a record of a run ({error}); remove it.") from error
        if is_of_another:
            raise UserError(f"{path} is the record of another run than its name says; remove it.")
        return record

    def create(self) -> None:
        """Make the folder, if it is not there.

        Raises:
            UserError: nothing can be written there.
        """
        check_takes_files("records", self.path)
        self.path.mkdir(parents=True, exist_ok=True)

    def write(self, record: RunRecord) -> None:
        """Write a record, in one step."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_json_atomically(self.file_of(record.description), record.to_dict())

    def missing(self, descriptions: Iterable[RunDescription]) -> list[RunDescription]:
        """Return the runs, each once, that have no result."""
        return [
            description
            for description in dict.fromkeys(descriptions)
            if (record := self.find(description)) is None or not record.is_result
        ]
