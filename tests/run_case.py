"""Runs of the tiny model that take a second, and what of their records must be the same."""

import dataclasses
from pathlib import Path

import pytest

from command_line import SMALL
from lora2.lab.experiments.description import RunDescription
from lora2.lab.experiments.presets.minilm import MINILM
from lora2.lab.experiments.presets.registry import PRESETS
from lora2.lab.experiments.presets.task_suite import SettingsTable
from lora2.lab.experiments.presets.tuned_preset import tuned_preset
from lora2.lab.experiments.record import RunRecord
from lora2.lab.experiments.setting import Setting

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


def shrink_small_preset(
    patch: pytest.MonkeyPatch, model: Path, settings: tuple[Setting, ...]
) -> None:
    """Make the preset `small` one table of these settings, on some sentences, one seed each.

    The training steps of its rows can be measured.
    """
    options = {name: value for name, value in OPTIONS.items() if name != "learning_rate"}
    suite = dataclasses.replace(
        MINILM, model=str(model), tasks={"agreement": options}, columns=MINILM.columns[:1]
    )
    tables = {"table1": SettingsTable("tiny", settings)}
    preset = tuned_preset("small", "tiny", suite, tables, settings, step_times="table1")
    patch.setitem(PRESETS, "small", dataclasses.replace(preset, seeds=1, timed=lambda model: []))
