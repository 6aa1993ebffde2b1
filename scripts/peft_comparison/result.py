"""The result file of an experiment, as PEFT's app reads it (method_comparison/processing.py)."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import importlib.util
import platform
import subprocess
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from peft_comparison.experiment import Experiment
from peft_comparison.training import Progress, Training

Status = Literal["success", "canceled"]

# PEFT's comparison has these keys in `package_info`, but for lora2.
_PACKAGES = ("transformers", "peft", "datasets", "bitsandbytes", "torch", "lora2")
_FOLDERS = {"main": "results", "test": "temporary_results", "canceled": "cancelled_results"}


def now() -> str:
    """Return the time as result files have it."""
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0).isoformat()


def peft_branch() -> str:
    """Return the branch of PEFT's checkout; an installed release stands for "main"."""
    folder = _checkout("peft")
    return "main" if folder is None else _git(folder, "--abbrev-ref") or "unknown"


def result_path(output: Path, name: str, status: Status, created_at: str) -> Path:
    """Return where a result goes; all but those of PEFT's main branch have the time in their name.

    name: the experiment's, with a stroke in it.
    """
    kind = "canceled" if status == "canceled" else "main" if peft_branch() == "main" else "test"
    stem = name.replace("/", "--")
    if kind != "main":
        stem = f"{stem}--{created_at.replace(':', '-')}"
    return output / _FOLDERS[kind] / f"{stem}.json"


def result(
    training: Training,
    progress: Progress,
    *,
    status: Status,
    error: str,
    created_at: str,
    total_time: float,
    file_size: int,
) -> dict[str, Any]:
    """Return what a result file holds.

    Args:
        training: finished or stopped.
        progress: what it has come to.
        status: which of the two.
        error: why it stopped.
        created_at: when it began.
        total_time: seconds, with loading and saving.
        file_size: bytes of the saved adapter.
    """
    experiment, memory = training.experiment, training.memory
    commit = getattr(training.model.config, "_commit_hash", None)
    reserved = memory.reserved_log or [0]
    return {
        "run_info": {
            "created_at": created_at,
            "total_time": total_time,
            "experiment_name": experiment.name,
            "peft_branch": peft_branch(),
            "train_config": dataclasses.asdict(experiment.train),
            "peft_config": _adapter(experiment),
            "error_msg": error,
        },
        "train_info": {
            "accelerator_memory_reserved_avg": int(np.mean(reserved)),
            "accelerator_memory_max": memory.largest,
            "accelerator_memory_reserved_99th": int(np.percentile(reserved, 99)),
            "train_time": progress.train_time,
            "file_size": file_size,
            "num_trainable_params": progress.trainable,
            "num_total_params": progress.parameters,
            "status": status,
            "metrics": progress.metrics,
        },
        "meta_info": {
            "model_info": {"sha": commit, "created_at": None},
            "dataset_info": dict(training.data.info),
            "package_info": _package_info(),
            "system_info": {
                "system": platform.system(),
                "release": platform.release(),
                "version": platform.version(),
                "machine": platform.machine(),
                "processor": platform.processor(),
                "accelerator": memory.name(),
            },
            "pytorch_info": torch.__config__.show(),
        },
    }


def _adapter(experiment: Experiment) -> dict[str, Any] | None:
    if experiment.adapter is None:
        return None
    fields = experiment.adapter.to_dict() | {"base_model_name_or_path": experiment.train.model_id}
    return {
        name: sorted(value) if isinstance(value, set) else value for name, value in fields.items()
    }


def _package_info() -> dict[str, str | None]:
    info: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            info[f"{name}-version"] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            info[f"{name}-version"] = None
        folder = _checkout(name)
        info[f"{name}-commit-hash"] = None if folder is None else _git(folder)
    return info


def _checkout(package: str) -> Path | None:
    """Return the folder of a package that is run from its sources; None of an installed one."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None or "site-packages" in found.origin:
        return None
    return Path(found.origin).parent


def _git(folder: Path, *options: str) -> str | None:
    """Return what git says of HEAD in a folder; None where that is no checkout."""
    command = ["git", "rev-parse", *options, "HEAD"]
    try:
        return subprocess.check_output(
            command, cwd=folder, text=True, stderr=subprocess.DEVNULL
        ).strip()
    except (OSError, subprocess.CalledProcessError):
        return None
