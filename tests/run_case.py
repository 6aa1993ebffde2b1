"""Runs of the tiny model that take a second, and what of their records must be the same."""

import dataclasses
from pathlib import Path

from command_line import SMALL
from lora2.experiments.description import RunDescription
from lora2.experiments.record import RunRecord

# Eight optimizer steps, evaluated and saved after each second one.
OPTIONS = {name: value for name, value in SMALL.items() if name != "baseline"} | {
    "eval_strategy": "steps",
    "eval_steps": 2,
    "learning_rate": 1e-3,
}
STEPS = 8
# What the machine does to a run, and what of it may differ between two that compute the same.
_OF_THE_MACHINE = ("seconds", "seconds_per_step", "peak_memory", "resumed_from_step", "machine")


def tiny_run(model: Path, method: str = "lora2", seed: int = 0, **options) -> RunDescription:
    """A run of some sentences of agreement."""
    return RunDescription(str(model), "agreement", method, OPTIONS | options, seed)


def computed(record: RunRecord) -> dict:
    """All of a record but what the machine has a say in."""
    content = dataclasses.asdict(record)
    return {name: value for name, value in content.items() if name not in _OF_THE_MACHINE}
