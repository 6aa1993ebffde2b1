"""`lora2 train --method X` for every method, and what the other commands make of its run."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from command_line import interrupt_at, lora2, refused, saved_weights, small_options
from lora2.training.methods.registry import METHODS
from lora2.training.on_disk.records import read_lines
from unit.method_runs import (
    assert_evaluates_as_trained,
    assert_is_shown,
    assert_merged_stands_alone,
    finished_runs,
    resumed_run,
    summary_of,
)

pytestmark = pytest.mark.slow

# PEFT says what those of its registry do: test_peft_commands.py.
OWN = {name: method for name, method in METHODS.items() if not method.from_peft}
every_method = pytest.mark.parametrize("method", OWN)

# Two epochs of two steps, of which the second and third prune.
STEPS = 4
OPTIONS = {
    "train_sentences": 16,
    "tinit": 1,
    "tfinal": 1,
    "threshold": 0.3,
    "virtual_tokens": 3,
    "bottleneck_size": 3,
    "learning_rate": 1e-2,
    "save_strategy": "steps",
    "save_steps": 1,
    "save_total_limit": 2,
}


@pytest.fixture(scope="module")
def train(tiny_model: Path) -> Callable[..., int]:
    """Trains a method in a folder, with options changed, and returns the exit code."""

    def of(method: str, folder: Path, **changed: object) -> int:
        options = small_options(OPTIONS, method=method, **changed)
        return lora2("train", f"--model={tiny_model}", f"--output_dir={folder}", *options)

    return of


@pytest.fixture(scope="module")
def run_of(
    train: Callable[..., int], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The folder of a method's finished run; do not write into it."""
    return finished_runs(train, tmp_path_factory)


def assert_same_weights(ours: Path, theirs: Path) -> None:
    found, expected = saved_weights(ours), saved_weights(theirs)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


# Two layers of four matrices 16 × 16 and two 16 × 32; five normalisations of 16.
TRAINED = {
    "head": 0,
    "bitfit": 2 * (6 * 16 + 32 + 16) + 16 + 16,
    "full": (100 + 64 + 2) * 16 + 2 * (4 * 272 + 544 + 528 + 64) + 32 + 272,
    "bottleneck": 4 * (2 * 3 * 16 + 3 + 16) + 5 * 32,
    "prompt": 3 * 16,
    "lora": 2 * (4 * 64 + 2 * 96),
    "adalora": 2 * (4 * (4 * 32 + 4) + 2 * (4 * 48 + 4)),
    "sora": 2 * (4 * 66 + 2 * 98),
    "lora2": 2 * (4 * (64 + 20) + 2 * (96 + 20)),
}


@every_method
def test_a_run_says_what_it_trained(method, run_of):
    summary = summary_of(run_of(method))
    assert summary["method"] == method
    assert summary["steps"] == STEPS
    assert summary["trainable_parameters"] == {"adapter": TRAINED[method], "head": 34}
    assert bool(summary["kept_singular_values"]) == (method == "lora2")
    assert [record["step"] for record in read_lines(run_of(method) / "metrics.jsonl")] == [2, 4]


@pytest.mark.parametrize("method", ["full", "lora", "lora2"])
def test_a_run_that_diverges_stops_and_says_so(method, train, tmp_path, capsys):
    options = {"learning_rate": 1e30, "logging_steps": 1, "max_grad_norm": 0}
    assert train(method, tmp_path / "run", **options) == 2
    assert re.search(
        r"(loss is|NaN or infinity in) .*: lower the learning rate", capsys.readouterr().err
    )
    assert not (tmp_path / "run" / "summary.json").exists()


def test_gates_that_closed_are_gone_at_the_end(run_of):
    summary = summary_of(run_of("sora"))
    last = read_lines(run_of("sora") / "log.jsonl")[-1]
    assert 0 < last["open_gates"] < 24
    held = saved_weights(run_of("sora"))
    gates = [tensor for name, tensor in held.items() if name.endswith("sora_gate")]
    assert sum(map(len, gates)) == last["open_gates"]
    left = sum(tensor.numel() for name, tensor in held.items() if ".sora_" in name)
    assert summary["final_parameters"]["adapter"] == left < TRAINED["sora"]


def test_what_adalora_pruned_is_gone_at_the_end(run_of):
    summary = summary_of(run_of("adalora"))
    left = sum(
        tensor.numel()
        for name, tensor in saved_weights(run_of("adalora")).items()
        if "lora_" in name
    )
    assert summary["final_parameters"]["adapter"] == left < TRAINED["adalora"]
    kept = sum(len(t) for name, t in saved_weights(run_of("adalora")).items() if "lora_E" in name)
    assert kept == 24


@every_method
def test_evaluate_gives_the_last_metrics_again(method, run_of, capsys):
    assert_evaluates_as_trained(run_of(method), capsys)


@every_method
def test_predict_gives_a_text_what_it_gets_beside_a_longer_one(method, run_of, tmp_path, capsys):
    file, texts = tmp_path / "texts.csv", ["the table is here", "the doctors near the tables have"]
    file.write_text("text\n" + "\n".join(texts) + "\n")
    assert lora2("predict", run_of(method), "--file", file) == 0
    together = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lora2("predict", run_of(method), "--text", texts[0]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert alone["probabilities"] == pytest.approx(together[0]["probabilities"], abs=1e-5)


@pytest.mark.parametrize("method", ["full", "sora", "prompt"])
def test_inspect_shows_a_run_without_singular_values(method, run_of, tmp_path, capsys):
    assert_is_shown(run_of(method), tmp_path / "run", capsys)


@pytest.mark.parametrize("method", [name for name, method in OWN.items() if method.merges])
def test_merged_model_stands_alone(method, run_of, tmp_path):
    assert_merged_stands_alone(run_of(method), tmp_path / "merged")


REFUSALS = {
    "full": "is a transformers checkpoint already; there is nothing to merge",
    "bottleneck": "bottleneck adapters cannot be merged into the weights",
    "prompt": "prompt tuning cannot be merged into the weights",
}


def test_only_these_do_not_merge():
    assert set(REFUSALS) == {name for name, method in OWN.items() if not method.merges}


@pytest.mark.parametrize(("method", "said"), REFUSALS.items())
def test_merging_what_cannot_be_merged_is_refused(method, said, run_of, tmp_path, capsys):
    output = tmp_path / "merged"
    assert said in refused(capsys, "export", run_of(method), "--to=merged", "--output", output)
    assert not output.exists()


# Resuming


@pytest.mark.parametrize("method", ["full", "sora", "prompt"])
def test_resumed_run_ends_as_the_uninterrupted_one(method, train, run_of, tmp_path, monkeypatch):
    resumed_run(train, method, tmp_path / "run", 3, monkeypatch)
    assert_same_weights(tmp_path / "run", run_of(method))


def test_a_run_that_was_trained_to_its_end_within_an_epoch_is_not_trained_on(train, tmp_path):
    folder = tmp_path / "run"
    training = {"max_steps": 3, "lr_scheduler_type": "constant"}
    assert train("full", folder, **training) == 0
    whole = tmp_path / "whole"
    shutil.copytree(folder, whole)
    # As if the disk had been full at the end.
    (folder / "summary.json").unlink()
    shutil.rmtree(folder / "adapter")
    assert lora2("train", "--output_dir", folder, "--resume") == 0
    assert summary_of(folder)["steps"] == 3
    assert_same_weights(folder, whole)


def test_adalora_starts_over_rather_than_going_on_wrongly(
    train, run_of, tmp_path, monkeypatch, capsys
):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt_at(3, patch)
        assert train("adalora", folder) == 130
    command = f"lora2 train --config {folder}/config.yaml --output_dir {folder} --overwrite"
    assert f"start over with `{command}`" in capsys.readouterr().err
    said = refused(capsys, "train", "--output_dir", folder, "--resume")
    assert "checkpoints of AdaLoRA lack what it needs to go on" in said
    assert f"`{command}`" in said
    assert lora2(*command.split()[1:]) == 0
    assert_same_weights(folder, run_of("adalora"))


# Refusals


@pytest.mark.parametrize(
    ("method", "changed", "named"),
    [
        ("sora", {"threshold": -1}, "threshold=-1"),
        ("sora", {"threshold_schedule": "linear"}, "max_threshold"),
        ("bottleneck", {"bottleneck_size": 0}, "bottleneck_size=0"),
        ("prompt", {"virtual_tokens": 0}, "virtual_tokens=0"),
        ("adalora", {"target_r": 4}, "target_r=4"),
        ("adalora", {"tinit": 4}, "tinit=4"),
        ("lora", {"k": 0}, "k=0"),
    ],
)
def test_bad_options_are_one_sentence(method, changed, named, tiny_model, tmp_path, capsys):
    folder = tmp_path / "run"
    options = small_options(OPTIONS, method=method, **changed)
    command = ("train", f"--model={tiny_model}", f"--output_dir={folder}")
    assert named in refused(capsys, *command, *options)
    assert not folder.exists()
