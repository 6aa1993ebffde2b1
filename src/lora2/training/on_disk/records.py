"""Metrics of a run as records, all computed from the trainer's log history.

The history is part of every checkpoint. A resumed run therefore has the records of the
uninterrupted one, and nothing has to be kept in step by hand.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lora2.support.checked_files import check_fields, read_json_lines
from lora2.support.files import nan_as_null, write_atomically
from lora2.trainers.logs import BUDGET, KEPT_PARAMETERS, KEPT_VALUES, PENALTY, TASK_LOSS

MetricsRecord = dict[str, Any]

_MEANS = {"loss": "train_loss", TASK_LOSS: TASK_LOSS, PENALTY: PENALTY}
_LASTS = ("learning_rate", "grad_norm")
_KEPT = (BUDGET, KEPT_VALUES, KEPT_PARAMETERS)
_DAMAGED = "restore it from a copy, or remove it to see the run without it"
_SPEEDS = ("_runtime", "_per_second", "_preparation_time")


def training_logs(history: Sequence[MetricsRecord]) -> list[MetricsRecord]:
    """Return the training logs: step, epoch, loss, learning rate, budget, kept values."""
    return [entry for entry in history if "loss" in entry]


def evaluation_records(history: Sequence[MetricsRecord]) -> list[MetricsRecord]:
    """Return one record per evaluated step.

    Each holds step, epoch, all metrics of all validation sets, budget and what is kept of it, and
    of the logs since the evaluation before the mean training loss of their steps and the last
    learning rate.
    """
    records: list[MetricsRecord] = []
    logs: list[MetricsRecord] = []
    steps: list[int] = []
    logged = 0
    for entry in history:
        if "loss" in entry:
            logs.append(entry)
            # A log has the mean of the steps since the log before, which need not be as many.
            steps.append(max(1, entry["step"] - logged))
            logged = entry["step"]
        metrics = {
            _metric_name(key.removeprefix("eval_")): value
            for key, value in entry.items()
            if key.startswith("eval_") and not key.endswith(_SPEEDS)
        }
        if not metrics:
            continue
        # Several validation sets are evaluated one after the other at the same step.
        if records and records[-1]["step"] == entry["step"]:
            records[-1] |= metrics
            continue
        place = {"step": entry["step"], "epoch": entry.get("epoch")}
        records.append(place | metrics | _summary_of(logs, steps) | _kept(entry, logs))
        logs, steps = [], []
    return records


def _metric_name(name: str) -> str:
    # "loss" alone would be read as the training loss.
    prefix, _, last = name.rpartition("_")
    if last == "loss":
        return f"{prefix}_validation_loss" if prefix else "validation_loss"
    return name


def _kept(entry: MetricsRecord, logs: Sequence[MetricsRecord]) -> MetricsRecord:
    # Older histories have it in the training logs alone.
    source = entry if BUDGET in entry or not logs else logs[-1]
    return {name: source[name] for name in _KEPT if name in source}


def _summary_of(logs: Sequence[MetricsRecord], steps: Sequence[int]) -> MetricsRecord:
    """Return the means of logs, each of so many steps, and what is last in them."""
    if not logs:
        return {}
    means = {
        new: sum(entry[old] * n for entry, n in zip(logs, steps, strict=True)) / sum(steps)
        for old, new in _MEANS.items()
        if all(old in entry for entry in logs)
    }
    return means | {name: logs[-1][name] for name in _LASTS if name in logs[-1]}


def best_and_last(
    records: Sequence[MetricsRecord], metric: str
) -> tuple[MetricsRecord, MetricsRecord] | None:
    """Return the records with the highest value of a metric (the earlier of equals) and the last.

    None if no evaluation has the metric. NaN is never the best unless there is nothing else.
    """
    with_metric = [record for record in records if metric in record]
    if not with_metric:
        return None

    def rank(record: MetricsRecord) -> float:
        return -math.inf if math.isnan(record[metric]) else record[metric]

    return max(with_metric, key=rank), with_metric[-1]


def write_lines(path: Path, records: Sequence[MetricsRecord]) -> None:
    """Write records as JSON lines, in one step; NaN and infinity become null."""
    lines = (json.dumps(nan_as_null(record), allow_nan=False) for record in records)
    write_atomically(path, "".join(f"{line}\n" for line in lines))


def read_lines(path: Path, needed: Sequence[str] = ("step",)) -> list[MetricsRecord]:
    """Return the records of a JSON lines file; none if it does not exist.

    needed: names of numbers that each record must have.

    Raises:
        UserError: the file is damaged.
    """
    if not path.exists():
        return []
    records = read_json_lines(path, _DAMAGED)
    for number, record in enumerate(records, start=1):
        place = f"{path}, record {number}"
        names = (*needed, *_drawn(record))
        check_fields(record, dict.fromkeys(names, float | None), place, _DAMAGED)
    return records


def _drawn(record: MetricsRecord) -> list[str]:
    """Return the names of further numbers that figures are drawn from."""
    pruned = [BUDGET, KEPT_VALUES] if BUDGET in record else []
    return pruned + [name for name in record if name == KEPT_PARAMETERS or name.endswith("loss")]
