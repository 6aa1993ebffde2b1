"""The folder of a run that was not trained but added up from others."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peft.utils import SAFETENSORS_WEIGHTS_NAME as WEIGHTS
from safetensors import safe_open

from lora2.training.finished_run.loaded_run import LoadedRun
from lora2.training.on_disk.environment import versions
from lora2.training.on_disk.run_folder import RunFolder
from lora2.training.on_disk.run_start import write_start
from lora2.training.on_disk.summary import RunSummary


def write_combined_run(
    path: Path, first: LoadedRun, adapter_name: str, runs: Sequence[str], weights: Sequence[float]
) -> None:
    """Write an adapter of the first run's model as a run folder: what commands read of a run.

    Nothing was measured, so best and last are null; `combined` says what was added up.
    """
    folder = RunFolder(path)
    write_start(folder, _options(first, adapter_name), first.task)
    if first.folder.base.is_dir():
        shutil.copytree(first.folder.base, folder.base)
    _save_adapter(first, adapter_name, folder.adapter)
    summary = RunSummary(
        task=first.task["name"],
        model=first.settings.model.model,
        method=first.settings.run.method,
        main_metric=first.summary.main_metric,
        best=None,
        last=None,
        baseline=None,
        combined=[
            {"run": run, "weight": weight} for run, weight in zip(runs, weights, strict=True)
        ],
        trainable_parameters={"adapter": 0, "head": 0},
        final_parameters=_sizes(folder.adapter / WEIGHTS, first.summary),
        versions=versions(),
    )
    # Last: with it the folder counts as a finished run.
    summary.write(folder.summary_file)


def _options(first: LoadedRun, adapter_name: str) -> dict[str, Any]:
    adapter: Any = first.model.peft_config[adapter_name]
    sizes = {"k": adapter.k, "init_r": adapter.k, "target_r": None, "orthogonality": "none"}
    return first.settings.to_options() | sizes


def _save_adapter(first: LoadedRun, adapter_name: str, path: Path) -> None:
    model: Any = first.model
    model.save_pretrained(str(path), selected_adapters=[adapter_name], save_embedding_layers=False)
    # PEFT gives every adapter but "default" a folder of its name.
    for file in (path / adapter_name).iterdir():
        file.rename(path / file.name)
    (path / adapter_name).rmdir()
    model.get_base_model().config.save_pretrained(path)
    first.preprocessor.save_pretrained(path)


def _sizes(weights: Path, first: RunSummary) -> dict[str, int]:
    """Count the saved numbers of the head, which is that of the first run, and all others."""
    with safe_open(weights, framework="pt") as file:
        names = file.keys()
        saved = sum(math.prod(file.get_slice(name).get_shape()) for name in names)
    head = first.final_parameters.get("head", 0)
    return {"adapter": saved - head, "head": head}
