"""A method at one setting, and how its learning rate is searched for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lora2.lab.experiments.description import RunDescription


def as_tried(learning_rate: float) -> float:
    """Return a learning rate with the digits that runs have, since it is part of their identity."""
    return float(f"{learning_rate:.2e}")


@dataclass(frozen=True)
class Search:
    """The learning rates that are searched, on a logarithmic scale, from `first` on.

    Attributes:
        low: smallest learning rate.
        first: the one tried first, the method's usual one.
        high: largest learning rate.
        seeds: runs of each trial; what it reached is their mean.
    """

    low: float
    first: float
    high: float
    seeds: int = 1


@dataclass(frozen=True)
class Setting:
    """One row of a table, before tasks and seeds.

    Attributes:
        key: names it in files: letters, digits and hyphens.
        label: as tables print it.
        method: its name in the registry.
        text: the setting as the paper writes it, such as "k=1".
        options: the method's options.
        search: where its learning rate is searched.
        tuned_as: key of the setting whose learning rate it takes over; None has one of its own.
        rate: a learning rate of its own that is not searched; None takes the chosen one.
        by_task: options on one task alone, by its name; they come over the others.
        cuts: sizes to which its adapters are cut and scored again, in parameters of a LoRA.
        cut: the one of them that the row shows; None shows the adapter as it was trained.
    """

    key: str
    label: str
    method: str
    text: str
    options: Mapping[str, Any]
    search: Search
    tuned_as: str | None = None
    rate: float | None = None
    by_task: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    cuts: tuple[int, ...] = ()
    cut: int | None = None


@dataclass(frozen=True)
class Experiment:
    """A setting on a task: all of a run but its learning rate and its seed.

    Attributes:
        model: as `lora2 train --model` takes it.
        task: name of the task.
        setting: method and options.
        options: of the task, common to all methods; the setting's own come over them.
    """

    model: str
    task: str
    setting: Setting
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """A name for files and for the table of chosen learning rates."""
        return f"{self.task}/{self.setting.key}"

    @property
    def tuned_name(self) -> str:
        """The name of the experiment whose learning rate it has."""
        return f"{self.task}/{self.setting.tuned_as or self.setting.key}"

    def run(self, learning_rate: float, seed: int) -> RunDescription:
        """Return the run with this learning rate and seed."""
        setting = self.setting
        of_task = setting.by_task.get(self.task, {})
        options = {**self.options, **setting.options, **of_task, "learning_rate": learning_rate}
        return RunDescription(self.model, self.task, setting.method, options, seed, setting.cuts)
