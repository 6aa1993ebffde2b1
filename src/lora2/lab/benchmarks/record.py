"""The record of a benchmark: what was measured, with what, where and when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_type_hints

import torch

from lora2.lab.benchmarks.bench_arguments import BenchArguments
from lora2.support.checked_files import check_fields, read_json
from lora2.support.files import write_json_atomically
from lora2.training.on_disk.environment import describe_environment, processor_name

Result = dict[str, Any]

MEBIBYTE = 2**20
"""Bytes of the unit in which tables and charts show memory."""


@dataclass(frozen=True)
class BenchmarkRecord:
    """Results of one section, one per model, with their provenance.

    Attributes:
        section: name of the section.
        date: when it ended, in UTC.
        device: name of the CPU or the card.
        threads: CPU threads of torch.
        options: all options as they held.
        environment: versions of the packages, platform, command.
        results: what the section returned, by model.
        extra: what it returned in addition to the models.
    """

    section: str
    date: str
    device: str
    threads: int
    options: dict[str, Any]
    environment: dict[str, Any]
    results: list[Result]
    extra: dict[str, Any]

    def write(self, path: Path) -> None:
        """Write the record as JSON, in one step."""
        write_json_atomically(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> BenchmarkRecord:
        """Return the record of a file.

        Raises:
            UserError: it is no record.
        """
        content = read_json(path, "measure again")
        check_fields(content, get_type_hints(cls), path, "measure again")
        return cls(**{name: content[name] for name in get_type_hints(cls)})


def make_record(
    section: str, options: BenchArguments, results: Sequence[Result], extra: dict[str, Any]
) -> BenchmarkRecord:
    """Return the record of results just measured here."""
    return BenchmarkRecord(
        section=section,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        device=device_name(options.device),
        threads=torch.get_num_threads(),
        options=asdict(options),
        environment=describe_environment(),
        results=list(results),
        extra=extra,
    )


def device_name(device: str) -> str:
    """Return the name of the card, or of the processor with the kernels that torch takes on it."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{processor_name()}, {torch.backends.cpu.get_cpu_capability()}"
