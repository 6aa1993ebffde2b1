"""Preset `small`: every method on MiniLM, on three tasks, within minutes a run on one thread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lora2.experiments.setting import Experiment, Search, Setting

MODEL = "minilm"
SEEDS = (0, 1, 2)
TUNING_SEED = 100
"""The seed of all tuning runs; no table has it."""

_COMMON: dict[str, Any] = {
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 128,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0.06,
    "weight_decay": 0,
    "eval_strategy": "epoch",
    "logging_steps": 20,
}
TASKS: Mapping[str, Mapping[str, Any]] = {
    "agreement": _COMMON | {"max_length": 64, "num_train_epochs": 8},
    "cola": _COMMON | {"max_length": 64, "num_train_epochs": 4},
    "stsb": _COMMON | {"max_length": 128, "num_train_epochs": 4},
}

# The window of AdaLoRA's and LoRA²'s released scripts for CoLA, as shares of their 6,700 steps.
_SCRIPTS_WINDOW = {"tinit": 0.12, "tfinal": 0.52, "deltaT": 10}
_PAPER_FORM = {
    **_SCRIPTS_WINDOW, "init_r": 8, "target_r": 4, "lora_alpha": 16,
    "orthogonality": "penalty", "orth_reg_weight": 0.1,
}  # fmt: skip
# ξ of SoRA's released script.
_SORA = {"lora_alpha": 16, "threshold": 3e-4}

_SEARCH = Search(2e-4, 1e-3, 5e-3)
_LORA_SEARCH = Search(2e-4, 5e-4, 5e-3)

SETTINGS: tuple[Setting, ...] = (
    Setting("head", "head alone", "head", "", {}, Search(5e-4, 3e-3, 5e-2)),
    Setting("bitfit", "BitFit", "bitfit", "", {}, Search(3e-4, 1e-3, 1e-2), "bitfit"),
    Setting(
        "full", "full fine-tuning", "full", "", {}, Search(2e-5, 1e-4, 5e-4), "full fine-tuning"
    ),
    Setting(
        "adalora-r1", "AdaLoRA", "adalora", "r=1",
        {**_SCRIPTS_WINDOW, "init_r": 2, "target_r": 1, "lora_alpha": 16, "orth_reg_weight": 0.1},
        _SEARCH,
    ),
    Setting("lora-r1", "LoRA", "lora", "r=1", {"k": 1, "lora_alpha": 16}, _LORA_SEARCH, "lora r=1"),
    Setting("sora-r1", "SoRA", "sora", "r=1", {"k": 1, **_SORA}, _SEARCH, "sora r=1"),
    Setting(
        "lora2-paper-k1", "LoRA², literal", "lora2", "k=1", {"k": 1, **_PAPER_FORM}, _SEARCH
    ),
    Setting(
        "lora2-k1", "LoRA²", "lora2", "k=1", {"k": 1, "init_r": 8, "target_r": 4}, _SEARCH,
        "lora2 k=1",
    ),
    Setting(
        "adalora-r8", "AdaLoRA", "adalora", "r=8",
        {**_SCRIPTS_WINDOW, "init_r": 12, "target_r": 8, "lora_alpha": 16, "orth_reg_weight": 0.1},
        _SEARCH, "adalora r=8",
    ),
    Setting("lora-r8", "LoRA", "lora", "r=8", {"k": 8, "lora_alpha": 16}, _LORA_SEARCH, "lora r=8"),
    Setting("sora-r8", "SoRA", "sora", "r=8", {"k": 8, **_SORA}, _SEARCH, "sora r=8"),
    Setting(
        "lora2-paper-k8", "LoRA², literal", "lora2", "k=8", {"k": 8, **_PAPER_FORM}, _SEARCH
    ),
    Setting(
        "lora2-k8", "LoRA²", "lora2", "k=8", {"k": 8, "init_r": 8, "target_r": 4}, _SEARCH,
        "lora2 k=8",
    ),
)  # fmt: skip


def experiments() -> list[Experiment]:
    """Return every setting on every task."""
    return [
        Experiment(MODEL, task, setting, options)
        for setting in SETTINGS
        for task, options in TASKS.items()
    ]
