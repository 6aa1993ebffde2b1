"""Whole experiments of PEFT's comparison with a tiny random Llama."""

import json
from pathlib import Path
from typing import Any

import pytest
from peft import AdaLoraModel, PeftConfig
from safetensors.torch import load_file
from torch import nn

import peft_method_comparison
from lora2 import Lora2Config
from peft_comparison.experiment import read_experiment
from peft_comparison.train_config import TrainConfig
from peft_comparison.training import OptimizerStep

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


# What an experiment may ask for, each in a short training of its own.
FIELDS: dict[str, tuple[dict[str, Any] | None, dict[str, Any]]] = {
    "all weights": (None, {}),
    "gradient checkpointing": (ADAPTERS["lora"], {"use_gc": True}),
    "mixed precision": (ADAPTERS["lora2"], {"use_amp": True}),
    "no schedule": (ADAPTERS["lora"], {"lr_scheduler": None, "grad_norm_clip": 0}),
    "LoRA+ on LoRA²": (
        ADAPTERS["lora2"],
        {"optimizer_type": "lora+", "optimizer_kwargs": {"lr": 1e-2, "loraplus_lr_ratio": 4}},
    ),
    "a prefix": (
        {"peft_type": "PREFIX_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": 3},
        {"init_kv_cache_prefix": "Add the numbers."},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FIELDS)
def test_an_experiment_is_trained_as_its_fields_say(name, language_model, data, tmp_path, capsys):
    adapter, train = FIELDS[name]
    short = {"max_steps": 2, "eval_steps": 2} | train
    experiment = write_experiment(tmp_path / "experiments" / "any" / "tiny", adapter, **short)
    assert run(experiment, language_model, data, tmp_path) == 0, capsys.readouterr().err
    content = json.loads((tmp_path / "results" / "any--tiny.json").read_text())
    assert at(content, "train_info.file_size") < 99999999
    assert at(content, "train_info.metrics.-1.forgetting") != 0


def test_a_method_that_prunes_is_told_each_step_from_1(language_model, data, tmp_path, monkeypatch):
    steps = []
    monkeypatch.setattr(AdaLoraModel, "update_and_allocate", lambda _, step: steps.append(step))
    adapter = {
        "peft_type": "ADALORA", "init_r": 4, "target_r": 2, "tinit": 1, "tfinal": 1,
        "total_step": 3, "target_modules": ["q_proj"],
    }  # fmt: skip
    short = {"max_steps": 3, "eval_steps": 3}
    experiment = write_experiment(tmp_path / "adalora" / "tiny", adapter, **short)
    assert run(experiment, language_model, data, tmp_path) == 0
    assert steps == [1, 2, 3]


def test_what_was_learnt_is_answered(language_model, tmp_path):
    rows = [{"prompt": "a", "completion": "bc"}]
    for name in ("train", "validation", "test"):
        write_rows(tmp_path / f"{name}.jsonl", rows)
    write_rows(tmp_path / "other.jsonl", [{"text": "Once upon a time"}])
    learns = {"max_steps": 40, "eval_steps": 40, "optimizer_kwargs": {"lr": 3e-2}}
    experiment = write_experiment(tmp_path / "experiments" / "all" / "tiny", None, **learns)
    assert run(experiment, language_model, tmp_path, tmp_path) == 0
    content = json.loads((tmp_path / "results" / "all--tiny.json").read_text())
    assert at(content, "train_info.metrics.0.valid accuracy") == 1
    assert at(content, "train_info.metrics.-1.test accuracy") == 1


def test_an_interrupted_training_leaves_what_it_did(language_model, data, tmp_path, monkeypatch):
    learn = OptimizerStep.learn

    def interrupted(self, batch, step):
        if step == 4:
            raise KeyboardInterrupt
        return learn(self, batch, step)

    monkeypatch.setattr(OptimizerStep, "learn", interrupted)
    experiment = write_experiment(tmp_path / "experiments" / "lora" / "tiny", ADAPTERS["lora"])
    assert run(experiment, language_model, data, tmp_path) == 130
    assert not list((tmp_path / "results").iterdir())
    (path,) = (tmp_path / "cancelled_results").iterdir()
    content = json.loads(path.read_text())
    assert at(content, "train_info.status") == "canceled"
    assert at(content, "run_info.error_msg") == "manually canceled"
    assert [entry["step"] for entry in at(content, "train_info.metrics")] == [3]


def test_a_compiled_model_is_compiled_with_sizes_that_may_change(
    language_model, data, tmp_path, monkeypatch
):
    options = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **given: options.append(given))
    short = {"max_steps": 1, "eval_steps": 1, "compile": True}
    experiment = write_experiment(tmp_path / "lora" / "tiny", ADAPTERS["lora"], **short)
    assert run(experiment, language_model, data, tmp_path) == 0
    assert options == [{"dynamic": True}]


LORA2_RECIPES = sorted(RECIPES.glob("lora2/*"))


@pytest.mark.parametrize("folder", sorted(RECIPES.glob("*/*")), ids=lambda path: path.name)
def test_a_recipe_is_an_experiment(folder):
    experiment = read_experiment(folder)
    assert experiment.name == f"{folder.parent.name}/{folder.name}"
    assert isinstance(experiment.adapter, PeftConfig)


@pytest.mark.parametrize("folder", LORA2_RECIPES, ids=lambda path: path.name)
def test_a_recipe_of_lora2_has_its_usual_scale_and_rate(folder):
    experiment = read_experiment(folder)
    assert experiment.adapter.lora_alpha == Lora2Config().lora_alpha
    assert experiment.train.optimizer_kwargs == {"lr": 1e-3, "weight_decay": 0.0}
    if experiment.adapter.prunes:
        assert experiment.adapter.total_step == experiment.train.max_steps
