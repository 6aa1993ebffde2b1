"""MiniLM and the three tasks of the presets that take minutes a run."""

from __future__ import annotations

from typing import Any

from lora2.lab.experiments.presets.task_suite import TaskSuite
from lora2.lab.experiments.tables.grid import Column

_COMMON: dict[str, Any] = {
    "head_start": "label_mean",
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 128,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0.06,
    "weight_decay": 0,
    # Half of the padding, and of the time, is saved.
    "train_sampling_strategy": "group_by_length",
    "eval_strategy": "steps",
    "logging_steps": 20,
}

MINILM = TaskSuite(
    model="minilm",
    label="MiniLM-L6",
    note="all-MiniLM-L6-v2, seeds {seeds}; the paper's numbers are of DeBERTaV3-base and are on "
    "another scale.",
    # Four, four and two evaluations: of 504, 1,072 and 360 optimizer steps.
    tasks={
        "agreement": _COMMON | {"max_length": 64, "num_train_epochs": 8, "eval_steps": 126},
        "cola": _COMMON | {"max_length": 64, "num_train_epochs": 4, "eval_steps": 268},
        "stsb": _COMMON | {"max_length": 128, "num_train_epochs": 2, "eval_steps": 180},
    },
    columns=(
        Column("agreement_acc", "agreement (Acc)", "agreement", "accuracy"),
        Column("cola_mcc", "CoLA (Mcc)", "cola", "matthews_correlation"),
        Column("stsb_pearson", "STS-B (Pearson)", "stsb", "pearson"),
    ),
)
