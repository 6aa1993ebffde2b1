"""The table of a preset that is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lora2.lab.experiments.tuning import Choice


@dataclass(frozen=True)
class TableRequest:
    """A table, and what its runs are made with.

    Attributes:
        table: one of the preset's tables.
        model: as `lora2 train --model` takes it.
        seeds: the seeds of each cell.
        choices: learning rates that tuning chose, by experiment, for presets that have them tuned.
    """

    table: str
    model: str
    seeds: tuple[int, ...]
    choices: Mapping[str, Choice] = field(default_factory=dict)
