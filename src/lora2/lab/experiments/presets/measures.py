"""What tables of methods show of a run next to its score."""

from __future__ import annotations

from lora2.lab.benchmarks.record import MEBIBYTE
from lora2.lab.experiments.record import RunRecord
from lora2.lab.experiments.tables.grid import Measure


def _kilobytes(record: RunRecord) -> float | None:
    return None if record.file_bytes is None else record.file_bytes / 1000


def _memory(record: RunRecord) -> float | None:
    return None if record.peak_memory is None else record.peak_memory / MEBIBYTE


def _distance(record: RunRecord) -> float | None:
    return record.forgotten.get("distance")


def _loss(record: RunRecord) -> float | None:
    return record.last.get("validation_loss") if record.last else None


def _more_loss(record: RunRecord) -> float | None:
    losses = record.forgotten
    return losses["loss_after"] - losses["loss_before"] if "loss_after" in losses else None


FILE = Measure("file_kilobytes", "file, kB", _kilobytes)
MEMORY = Measure("peak_memory_mib", "peak memory, MiB", _memory)
DISTANCE = Measure("distance", "distance on other texts", _distance, digits=4)
LOSS = Measure("validation_loss", "its loss", _loss, digits=4)
MORE_LOSS = Measure("more_loss", "more loss on other texts", _more_loss, digits=3)
