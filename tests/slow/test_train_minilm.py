"""The command line with real pretrained weights; a few dozen steps each."""

import json
import signal
from pathlib import Path

import pytest

from command_line import lora2
from lora2.training.on_disk.checkpoints import newest_complete
from lora2.training.on_disk.records import read_lines

pytestmark = pytest.mark.slow

# Twelve optimizer steps, four an epoch.
SHORT = ["--train_sentences=128", "--validation_sentences=32", "--num_train_epochs=3"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "agreement"
    assert lora2("train", f"--output_dir={folder}", *SHORT, "--baseline_epochs=1") == 0
    return folder


def test_packaged_model_trains_on_agreement(run):
    summary = json.loads((run / "summary.json").read_text())
    assert summary["model"] == "minilm"
    assert summary["steps"] == 12
    assert abs(summary["baseline"]["last"]["accuracy"] - 0.5) < 0.2
    # Six layers of six matrices, from eight singular values each to four on average.
    assert sum(summary["kept_singular_values"].values()) == 6 * 6 * 4
    # Too few steps to learn the task; the adapter has moved all the same.
    states = [record["validation_loss"] for record in read_lines(run / "metrics.jsonl")]
    assert len(set(states)) == 3


def test_evaluate_agrees_with_the_last_evaluation_of_training(run, capsys):
    last = json.loads((run / "summary.json").read_text())["last"]
    assert lora2("evaluate", run) == 0
    assert f"{last['accuracy']:.4f}" in capsys.readouterr().out


def test_export_and_inspect(run, tmp_path):
    assert lora2("export", run, "--to=merged", "--output", tmp_path / "merged") == 0
    assert lora2("inspect", run) == 0
    assert len(list((run / "figures").iterdir())) == 3


KILLED_WHILE_SAVING = """
import os, signal, sys, torch
from lora2_cli.main import main

save, calls = torch.save, []

def cut_short(value, path, *arguments, **named):
    if str(path).endswith("optimizer.pt"):
        calls.append(path)
        if len(calls) == 3:
            open(path, "wb").write(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
    return save(value, path, *arguments, **named)

torch.save = cut_short
main(sys.argv[1:])
"""


def test_killed_while_saving_goes_on_from_the_checkpoint_before(run, tmp_path, capsys, forked):
    folder = tmp_path / "run"
    command = ["train", f"--output_dir={folder}", *SHORT, "--baseline=none"]
    script = tmp_path / "killed.py"
    script.write_text(KILLED_WHILE_SAVING)
    killed = forked.call(command, tmp_path, program=str(script), seconds=300)
    assert killed.code == -signal.SIGKILL
    newest, faults = newest_complete(folder / "checkpoints")
    assert newest is not None
    assert newest.name == "checkpoint-8"
    assert faults == ["checkpoint-12 was cut short (optimizer.pt is damaged)"]
    assert lora2("train", f"--output_dir={folder}", "--resume") == 0
    assert "Resuming from checkpoint-8" in capsys.readouterr().out
    ours, theirs = ((path / "adapter" / "adapter_model.safetensors") for path in (folder, run))
    assert ours.read_bytes() == theirs.read_bytes()
