"""Whole experiments of PEFT's comparison with a tiny random Llama."""

import json
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file

import lora2  # noqa: F401 (makes LORA2 known to PEFT)
import peft_method_comparison
from peft_comparison.experiment import read_experiment
from peft_comparison.train_config import TrainConfig

RECIPES = Path(peft_method_comparison.__file__).parent / "peft_comparison" / "recipes"
ADAPTERS: dict[str, dict[str, Any]] = {
    "lora": {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj", "v_proj"]},
    "lora2": {
        "peft_type": "LORA2", "k": 4, "init_r": 4, "target_r": 1, "target_modules": ["q_proj"],
    },
}  # fmt: skip
SHORT = {
    "dtype": "float32",
    "max_seq_length": 64,
    "batch_size": 2,
    "batch_size_eval": 2,
    "max_steps": 6,
    "eval_steps": 3,
    "query_template": "{query}=",
    "optimizer_kwargs": {"lr": 1e-2},
    "generation_kwargs": {"max_new_tokens": 3},
}
# What method_comparison/processing.py of PEFT reads (its `_preprocess_common` and
# `_preprocess_metamathqa`, release of July 2026), with the types of its columns.
COLUMNS: dict[str, tuple[str, type]] = {
    "experiment_name": ("run_info.experiment_name", str),
    "model_id": ("run_info.train_config.model_id", str),
    "train_config": ("run_info.train_config", dict),
    "peft_type": ("run_info.peft_config.peft_type", str),
    "peft_config": ("run_info.peft_config", dict),
    "peft_branch": ("run_info.peft_branch", str),
    "created_at": ("run_info.created_at", str),
    "total_time": ("run_info.total_time", float),
    "accelerator_memory_reserved_avg": ("train_info.accelerator_memory_reserved_avg", int),
    "accelerator_memory_max": ("train_info.accelerator_memory_max", int),
    "accelerator_memory_reserved_99th": ("train_info.accelerator_memory_reserved_99th", int),
    "train_time": ("train_info.train_time", float),
    "file_size": ("train_info.file_size", int),
    "num_trainable_params": ("train_info.num_trainable_params", int),
    "status": ("train_info.status", str),
    "test_accuracy": ("train_info.metrics.-1.test accuracy", float),
    "train_loss": ("train_info.metrics.-1.train loss", float),
    "train_samples": ("train_info.metrics.-1.train samples", int),
    "train_total_tokens": ("train_info.metrics.-1.train total tokens", int),
    "forgetting*": ("train_info.metrics.-1.forgetting", float),
    "peft_version": ("meta_info.package_info.peft-version", str),
    "transformers_version": ("meta_info.package_info.transformers-version", str),
    "datasets_version": ("meta_info.package_info.datasets-version", str),
    "torch_version": ("meta_info.package_info.torch-version", str),
    "bitsandbytes_version": ("meta_info.package_info.bitsandbytes-version", object),
    "package_info": ("meta_info.package_info", dict),
    "system_info": ("meta_info.system_info", dict),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    rows = [{"prompt": "a" * (1 + i % 3), "completion": "b" * (1 + i % 3)} for i in range(5)]
    for name in ("train", "validation", "test"):
        write_rows(folder / f"{name}.jsonl", rows)
    write_rows(folder / "other.jsonl", [{"text": "Once upon a time"}, {"text": "there was"}])
    return folder


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def write_experiment(folder: Path, adapter: dict[str, Any] | None, **train: Any) -> Path:
    folder.mkdir(parents=True)
    if adapter is not None:
        (folder / "adapter_config.json").write_text(json.dumps(adapter))
    (folder / "training_params.json").write_text(json.dumps(SHORT | train))
    return folder


def run(experiment: Path, model: Path, data: Path, output: Path, *more: str) -> int:
    return peft_method_comparison.main(
        [str(experiment), f"--model={model}", f"--data_dir={data}", f"--output_dir={output}", *more]
    )


def at(content: Any, path: str) -> Any:
    for name in path.split("."):
        content = content[int(name)] if isinstance(content, list) else content[name]
    return content


@pytest.fixture(scope="module", params=ADAPTERS)
def finished(request, language_model: Path, data: Path, tmp_path_factory) -> tuple[str, Path]:
    output = tmp_path_factory.mktemp(request.param)
    experiment = write_experiment(
        output / "experiments" / request.param / "tiny", ADAPTERS[request.param]
    )
    kept = f"--keep_adapter={output / 'adapter'}"
    assert run(experiment, language_model, data, output, kept) == 0
    return request.param, output


def test_a_result_file_has_what_pefts_app_reads(finished):
    method, output = finished
    content = json.loads((output / "results" / f"{method}--tiny.json").read_text())
    for column, (path, kind) in COLUMNS.items():
        assert isinstance(at(content, path), kind), column
    assert content["run_info"]["train_config"].keys() == vars(TrainConfig()).keys()
    assert at(content, "run_info.experiment_name") == f"{method}/tiny"
    assert at(content, "train_info.status") == "success"
    steps = [entry["step"] for entry in at(content, "train_info.metrics")]
    assert steps == [3, 6, 6]
    # Five rows in batches of two: the third batch of each pass has one.
    assert at(content, "train_info.metrics.-1.train samples") == 10


def test_the_saved_adapter_is_trained_and_pruned(finished):
    method, output = finished
    tensors = load_file(output / "adapter" / "adapter_model.safetensors")
    size = (output / "adapter" / "adapter_model.safetensors").stat().st_size
    content = json.loads((output / "results" / f"{method}--tiny.json").read_text())
    assert at(content, "train_info.file_size") == size
    if method == "lora2":
        kept = sum(t.count_nonzero() for name, t in tensors.items() if "lambda" in name)
        assert kept == 2
    else:
        assert all(t.any() for name, t in tensors.items() if "lora_B" in name)
