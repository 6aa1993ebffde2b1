"""Recipes: which options a task trains with unless the user says otherwise.

Every key is an option of `lora2 train`. `GENERAL` holds for every task, the user's own data too;
`Objective.recipe` and then `BY_TASK` say what differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

GENERAL: dict[str, Any] = {
    "k": 8,
    "init_r": 8,
    "target_r": 4.0,
    "max_length": 128,
    "baseline": "none",
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 64,
    "num_train_epochs": 8.0,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0.06,
    "weight_decay": 0.0,
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    # Two, so that a checkpoint cut short has a predecessor to resume from.
    "save_total_limit": 2,
    "logging_steps": 10.0,
    # transformers would log the last finite loss in place of a NaN.
    "logging_nan_inf_filter": False,
    "seed": 0,
}

BY_TASK: dict[str, dict[str, Any]] = {
    "agreement": {"max_length": 64, "baseline": "head"},
    # In a fifth epoch the training loss still falls, and the correlation no longer rises.
    "cola": {"max_length": 64, "num_train_epochs": 4.0, "target_r": 6.0},
    "rte": {"max_length": 256, "num_train_epochs": 10.0},
    "stsb": {"max_length": 128, "num_train_epochs": 5.0},
    "mrpc": {"max_length": 128, "num_train_epochs": 15.0},
    "sst2": {"max_length": 128, "num_train_epochs": 3.0},
    "mnli": {"max_length": 256, "num_train_epochs": 3.0},
    "qnli": {"max_length": 256, "num_train_epochs": 3.0},
    "qqp": {"max_length": 256, "num_train_epochs": 3.0},
    "appointments": {"max_length": 64, "num_train_epochs": 4.0, "baseline": "head"},
    "digits": {
        "num_train_epochs": 15.0,
        "learning_rate": 3e-3,
        "baseline": "head",
        "eval_on_start": True,
    },
    "rewrite": {
        "max_length": 64,
        "exact_match_rows": 100,
        "max_new_tokens": 16,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 50,
        "num_train_epochs": 1.0,
        "learning_rate": 1e-3,
    },
    "snips": {
        "max_length": 192,
        "exact_match_rows": 100,
        "max_new_tokens": 96,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 50,
        "num_train_epochs": 1.0,
        "learning_rate": 1e-3,
    },
    "preferences": {
        "max_length": 64,
        "max_new_tokens": 16,
        # Model and reference read both answers of a pair: 1,200 would take half an hour.
        "train_rows": 160,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 20,
        "num_train_epochs": 1.0,
        "learning_rate": 5e-4,
    },
}


def recipe(task: str | None, of_objective: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a task; `None` is the user's own data."""
    return {**GENERAL, **of_objective, **BY_TASK.get(task or "", {})}
