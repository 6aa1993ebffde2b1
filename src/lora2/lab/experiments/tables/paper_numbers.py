"""The numbers of the paper's tables, as printed there (arXiv 2408.06854)."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

TABLE2 = "table2"
"""The paper's table of times, which is measured in turns and not made from runs."""

TABLES = ("table1", TABLE2, "table3", "table4")

# Columns that say what a row is; all others are its numbers. Together they are the row's key.
_KEYS = ("method", "setting", "constrained", "weights", "task")
_NOT_VALUES = (*_KEYS, "model", "params", "avg")
# Fewer than the adapter starts with: what is left when the method has pruned to its budget.
_COUNTED_AFTER_PRUNING = ("adalora", "sora")


@dataclass(frozen=True)
class PaperRow:
    """One row of a table of the paper.

    Attributes:
        values: by column, None where the paper has no number.
        parameters: the number of trained parameters as printed ("0.17M").
        average: as printed.
        counted_after_pruning: whether `parameters` are those left after pruning.
    """

    values: Mapping[str, float | None]
    parameters: str | None
    average: float | None
    counted_after_pruning: bool


def paper_rows(table: str) -> dict[str, PaperRow]:
    """Return the rows of "table1" to "table4" by key; none of any other table.

    A key is the method and its setting ("lora2 k=1", "bitfit"), the constrained pairs ("uv&UV"),
    the adapted weights ("Q,K") or the task ("cola"), whichever the rows of the table are.
    """
    if table not in TABLES:
        return {}
    text = (files(__package__) / "paper" / f"{table}.csv").read_text(encoding="utf-8")
    return {_key(line): _row(line) for line in csv.DictReader(text.splitlines())}


def _key(line: Mapping[str, str]) -> str:
    return " ".join(line[name] for name in _KEYS if line.get(name))


def _row(line: Mapping[str, str]) -> PaperRow:
    return PaperRow(
        values={name: _number(text) for name, text in line.items() if name not in _NOT_VALUES},
        parameters=line.get("params") or None,
        average=_number(line.get("avg")),
        counted_after_pruning=line.get("method") in _COUNTED_AFTER_PRUNING,
    )


def _number(text: str | None) -> float | None:
    return float(text) if text else None
