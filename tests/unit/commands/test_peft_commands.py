"""Whole commands with PEFT's other methods: train, evaluate, export, inspect, resume."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from command_line import lora2, refused, small_options
from lora2.training.on_disk.records import read_lines
from unit.method_runs import (
    assert_evaluates_as_trained,
    assert_is_shown,
    assert_merged_stands_alone,
    finished_runs,
    resumed_run,
    summary_of,
)

# PEFT warns of what its methods do, such as to normalisations.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning:peft")]

# By name, with what the tiny model needs: a variant of LoRA, one with shared tensors, one that
# changes outputs, one that cannot be merged, one that has an optimizer of its own, any by its type.
CONFIGS = {
    "dora": {"r": 2},
    "pissa": {"r": 2},
    "miss": {"r": 4},
    "vera": {"r": 8},
    "ia3": {},
    "lily": {"r": 4},
    "loraplus": {},
    "ln_tuning": {"target_modules": ["LayerNorm"]},
    "peft": {"peft_type": "OFT", "oft_block_size": 4},
}
STEPS = 8
every_method = pytest.mark.parametrize("method", CONFIGS)


@pytest.fixture(scope="module")
def train(tiny_model: Path) -> Callable[..., int]:
    """Trains a method in a folder, with options changed, and returns the exit code."""

    def of(method: str, folder: Path, **changed: object) -> int:
        options = small_options({"learning_rate": 1e-2}, method=method, **changed)
        config = f"--peft_config={json.dumps(CONFIGS[method])}"
        return lora2("train", f"--model={tiny_model}", f"--output_dir={folder}", *options, config)

    return of


@pytest.fixture(scope="module")
def run_of(
    train: Callable[..., int], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The folder of a method's finished run; do not write into it."""
    return finished_runs(train, tmp_path_factory)


@every_method
def test_a_run_says_its_method_and_config(method, run_of):
    summary = summary_of(run_of(method))
    assert (summary["method"], summary["peft_config"]) == (method, CONFIGS[method])
    assert summary["steps"] == STEPS
    assert summary["trainable_parameters"]["adapter"] > 0
    assert [record["step"] for record in read_lines(run_of(method) / "metrics.jsonl")] == [4, 8]
    saved = json.loads((run_of(method) / "adapter" / "adapter_config.json").read_text())
    assert CONFIGS[method].items() <= saved.items()


@every_method
def test_evaluate_gives_the_last_metrics_again(method, run_of, capsys):
    assert_evaluates_as_trained(run_of(method), capsys)
    assert lora2("predict", run_of(method), "--text", "the tables are here") == 0


@every_method
def test_inspect_shows_the_run(method, run_of, tmp_path, capsys):
    shown = assert_is_shown(run_of(method), tmp_path / "run", capsys)
    assert method != "peft" or "PEFT OFT" in shown


@pytest.mark.parametrize("method", [name for name in CONFIGS if name not in ("lily", "ln_tuning")])
def test_merged_model_stands_alone(method, run_of, tmp_path):
    assert_merged_stands_alone(run_of(method), tmp_path / "merged")
    assert "--to merged" in (run_of(method) / "adapter" / "README.md").read_text()


def test_what_peft_does_not_merge_is_said_in_its_words(run_of, tmp_path, capsys):
    output = tmp_path / "merged"
    said = refused(capsys, "export", run_of("lily"), "--to=merged", "--output", output)
    assert "Lily cannot be merged into the weights (NotImplementedError: " in said
    assert not output.exists()
    card = (run_of("lily") / "adapter" / "README.md").read_text()
    assert "cannot be merged" in card
    assert "--to merged" not in card


def test_a_head_that_peft_leaves_in_its_wrapper_is_put_in(run_of, tmp_path):
    """Of LN tuning, PEFT leaves the head in its wrapper, and a checkpoint would lack it."""
    output = tmp_path / "merged"
    assert lora2("export", run_of("ln_tuning"), "--to=merged", "--output", output) == 0
    names = load_file(output / "model.safetensors").keys()
    assert "classifier.weight" in names
    assert not any("modules_to_save" in name for name in names)


@pytest.mark.parametrize("method", ["dora", "vera"])
def test_a_lora_of_high_rank_is_the_adapter(method, run_of, tmp_path, capsys):
    assert lora2("export", run_of(method), "--rank=16", "--output", tmp_path / "lora") == 0
    said = capsys.readouterr().out
    assert float(re.search(r"by (\S+) of the largest", said)[1]) < 1e-3
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["task_type"]) == ("LORA", 16, "SEQ_CLS")


@pytest.mark.parametrize(
    ("method", "more", "said"),
    [
        ("vera", [], "rank: PEFT converts Vera to a LoRA of a rank that you choose"),
        ("vera", ["--rank=1.5"], "rank=1.5: "),
        ("vera", ["--rank=17"], "does not convert VERA to a LoRA of rank 17"),
        ("vera", ["--size=100"], "size=100.0 has no effect with Vera"),
        ("vera", ["--rank=2", "--compact"], "compact=True has no effect with Vera"),
        ("vera", ["--to=gguf"], "to: gguf is for LoRA² and SoRA, not for Vera"),
        ("ia3", ["--rank=2"], "PEFT has no conversion of IA3"),
        ("pissa", ["--rank=2"], "has changed the weight of"),
    ],
)
def test_a_lora_that_cannot_be_is_refused(method, more, said, run_of, tmp_path, capsys):
    output = tmp_path / "lora"
    assert said in refused(capsys, "export", run_of(method), "--output", output, *more)
    assert not output.exists()


@pytest.mark.parametrize("method", ["miss", "vera", "loraplus"])
def test_resumed_run_ends_as_the_uninterrupted_one(method, train, run_of, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    resumed_run(train, method, folder, 5, monkeypatch)
    resumed, whole = (
        [record["validation_loss"] for record in read_lines(run / "metrics.jsonl")]
        for run in (folder, run_of(method))
    )
    assert resumed == pytest.approx(whole, abs=1e-6)


def test_a_saved_config_trains_the_same_method_again(run_of, tiny_model, tmp_path):
    config = run_of("dora") / "adapter" / "adapter_config.json"
    folder = tmp_path / "run"
    options = small_options({"learning_rate": 1e-2}, method="peft", save_strategy="no")
    command = ["train", f"--model={tiny_model}", f"--output_dir={folder}", *options]
    assert lora2(*command, f"--peft_config={config}") == 0
    again, first = summary_of(folder), summary_of(run_of("dora"))
    assert again["last"]["validation_loss"] == first["last"]["validation_loss"]
    assert again["peft_config"]["use_dora"] is True


def test_params_counts_what_is_trained(run_of, tiny_model, capsys):
    for method, config in CONFIGS.items():
        summary = summary_of(run_of(method))
        capsys.readouterr()
        words = ["params", f"--model={tiny_model}", f"--method={method}"]
        assert lora2(*words, f"--peft_config={json.dumps(config)}") == 0
        counted = int(capsys.readouterr().out.replace(",", ""))
        assert counted == summary["trainable_parameters"]["adapter"], method


def test_another_method_trains_a_language_model(language_model, tmp_path):
    folder = tmp_path / "run"
    words = [
        "train", "--objective=sft", f"--model={language_model}", f"--output_dir={folder}",
        "--method=miss", '--peft_config={"r": 4}', "--train_rows=16", "--validation_rows=4",
        "--per_device_train_batch_size=8", "--num_train_epochs=1", "--max_length=96",
        "--max_new_tokens=4",
    ]  # fmt: skip
    assert lora2(*words) == 0
    assert lora2("evaluate", folder) == 0
    assert lora2("generate", folder, "--prompt=two kilos") == 0
