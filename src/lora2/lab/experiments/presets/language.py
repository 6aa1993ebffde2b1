"""Preset `language`: SmolLM2-135M writes rewrite's forms and SNIPS's JSON, at LoRA's size and less.

All methods adapt the same 210 matrices and start at about the size of LoRA of rank 8. There is no
head whose learning rate could differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lora2.data.tasks.metric_names import EXACT_MATCH
from lora2.lab.experiments.presets.measures import FILE, LOSS, MEMORY, MORE_LOSS
from lora2.lab.experiments.presets.other_rates import at_multiple, at_other_rates
from lora2.lab.experiments.presets.small_settings import LORA_SEARCH
from lora2.lab.experiments.presets.small_sizes import pruned_to
from lora2.lab.experiments.presets.task_suite import SettingsTable, TaskSuite
from lora2.lab.experiments.presets.tuned_preset import tuned_preset
from lora2.lab.experiments.setting import Search, Setting
from lora2.lab.experiments.tables.grid import Column
from lora2.training.options.model_arguments import PACKAGED_LANGUAGE_MODEL

NAME = "language"

_COMMON: dict[str, Any] = {
    "objective": "sft",
    "validation_rows": 300,
    "exact_match_rows": 300,
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 50,
    "num_train_epochs": 1,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0.06,
    "weight_decay": 0,
    "eval_strategy": "steps",
    "logging_steps": 10,
}

SMOLLM2 = TaskSuite(
    model=PACKAGED_LANGUAGE_MODEL,
    label="SmolLM2-135M",
    note="SmolLM2-135M-Instruct from its Q4_1 file, seeds {seeds}; 300 validation prompts are "
    "answered before the first step and after the last.",
    # Two evaluations: of 150 and 250 optimizer steps.
    tasks={
        "rewrite": _COMMON
        | {"train_rows": 1200, "max_length": 64, "max_new_tokens": 16, "eval_steps": 75},
        "snips": _COMMON
        | {"train_rows": 2000, "max_length": 192, "max_new_tokens": 96, "eval_steps": 125},
    },
    columns=(
        Column("rewrite_match", "rewrite (exact match)", "rewrite", EXACT_MATCH),
        Column("snips_match", "SNIPS (exact match)", "snips", EXACT_MATCH),
    ),
)
_LOSSES = (
    Column("rewrite_loss", "rewrite (loss)", "rewrite", "validation_loss", scale=1),
    Column("snips_loss", "SNIPS (loss)", "snips", "validation_loss", scale=1),
)

_LORA2 = Setting(
    "lora2-k8", "LoRA²", "lora2", "k=8",
    {"k": 8, "init_r": 8, "target_r": None, "lora_alpha": 4},
    Search(1e-4, 1e-3, 1e-2),
)  # fmt: skip
TUNED_SETTINGS = (
    Setting("lora-r8", "LoRA", "lora", "r=8", {"k": 8, "lora_alpha": 16}, LORA_SEARCH),
    # Its factor has as many numbers as both of LoRA of rank 8 together.
    Setting("miss-r16", "MiSS", "miss", "r=16", {"peft_config": {"r": 16}}, LORA_SEARCH),
    _LORA2,
)
"""The settings that have a learning rate of their own."""


def _pruned(rank: float) -> Setting:
    options = {**_LORA2.options, **pruned_to(rank)}
    key, text = f"lora2-to-{rank:g}", f"k=8 to {rank:g}"
    return replace(_LORA2, key=key, text=text, options=options, tuned_as=_LORA2.key)


_ROWS = (*TUNED_SETTINGS, _pruned(2), _pruned(1))
TABLES: Mapping[str, SettingsTable] = {
    NAME: SettingsTable(
        "answers that equal the right one exactly, %",
        _ROWS,
        note="Answers are scored at the end alone, so that best and last are the same. More loss: "
        "of texts of no task, after training as against before, nats a token.",
        measures=(FILE, MEMORY, MORE_LOSS),
    ),
    f"{NAME}-loss": SettingsTable(
        "loss of validation rows, nats a token",
        _ROWS,
        note="Best is the loss at the evaluation with the best exact match, which is the last.",
        columns=_LOSSES,
    ),
    "rates": SettingsTable(
        "answers that equal the right one exactly, %, at the usual learning rate, a third and "
        "three times of it",
        tuple(at_other_rates(TUNED_SETTINGS)),
        measures=(MORE_LOSS,),
    ),
    "raised": SettingsTable(
        "answers that equal the right one exactly, %, at three times the usual learning rate",
        tuple(at_multiple(setting, 3) for setting in _ROWS),
        tasks=("snips",),
        measures=(FILE, LOSS, MORE_LOSS),
    ),
}

PRESET = tuned_preset(
    NAME,
    "SmolLM2-135M on rewrite and SNIPS, a quarter of an hour a run",
    SMOLLM2,
    TABLES,
    TUNED_SETTINGS,
    step_times=NAME,
)
