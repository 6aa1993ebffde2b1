"""Runs of `lora2 train --method X`, and what the other commands must make of each of them."""

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from command_line import interrupt_at, lora2
from lora2.training.run_loading import load_saved_run

# Trains a method in a folder, with options changed, and returns the exit code.
Train = Callable[..., int]


def finished_runs(train: Train, factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Trains each method once, and returns the folder of its run; do not write into it."""

    @cache
    def of(method: str) -> Path:
        folder = factory.mktemp("methods") / method
        assert train(method, folder, save_strategy="no") == 0
        return folder

    return of


def summary_of(run: Path) -> dict:
    return json.loads((run / "summary.json").read_text())


def assert_evaluates_as_trained(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lora2("evaluate", run) == 0
    assert f"{summary_of(run)['last']['accuracy']:.4f}" in capsys.readouterr().out


def assert_is_shown(run: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What `lora2 inspect` says of a copy of a run without singular values."""
    shutil.copytree(run, folder)
    assert lora2("inspect", folder) == 0
    assert (folder / "figures" / "loss.png").is_file()
    shown = capsys.readouterr().out
    assert "no LoRA² adapter" in shown
    return shown


def assert_merged_stands_alone(run: Path, output: Path) -> None:
    assert lora2("export", run, "--to=merged", "--output", output) == 0
    merged = AutoModelForSequenceClassification.from_pretrained(output).eval()
    batch = AutoTokenizer.from_pretrained(output)("The tables are here.", return_tensors="pt")
    with torch.no_grad():
        expected = load_saved_run(run).model(**batch).logits
        torch.testing.assert_close(merged(**batch).logits, expected, atol=1e-5, rtol=1e-5)


def resumed_run(
    train: Train, method: str, folder: Path, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Train a method that saves after each step, press Ctrl-C after `at` of them, and resume."""
    with monkeypatch.context() as patch:
        interrupt_at(at, patch)
        assert train(method, folder, save_strategy="steps", save_steps=1) == 130
    assert lora2("train", "--output_dir", folder, "--resume") == 0
    assert summary_of(folder)["resumed_from_step"] == at
