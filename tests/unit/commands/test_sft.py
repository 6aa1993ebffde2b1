"""`lora2 train --objective sft` on a tiny language model, and what other commands make of it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from command_line import lora2, refused, saved_weights
from language_model import CHAT, save_language_model, train_texts, write_rows
from lora2.commands.train_parser import TrainParser
from lora2.training.methods.registry import METHODS
from lora2.training.on_disk.records import read_lines
from lora2.training.run_loading import load_saved_run
from lora2.training.trainer.sft_trainer import RunSftTrainer

pytestmark = pytest.mark.slow

STEPS = 8
# These train nothing of a language model without biases, or nothing at all without a head.
NOTHING_TO_TRAIN = ("head", "bitfit")
MERGED = ("lora2", "lora", "adalora", "sora")


@pytest.fixture(scope="module")
def run_of(language_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a method's finished run; do not write into it."""
    made: dict[str, Path] = {}

    def of(method: str) -> Path:
        if method not in made:
            made[method] = tmp_path_factory.mktemp("methods") / method
            options = {"method": method, "save_strategy": "no"}
            assert train_texts(language_model, made[method], **options) == 0
        return made[method]

    return of


def summary_of(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


# What a run writes


def test_run_folder_is_that_of_every_run(run_of):
    run = run_of("lora2")
    names = {path.name for path in run.iterdir()}
    assert names >= {
        "adapter", "config.yaml", "environment.json", "log.jsonl", "metrics.jsonl", "summary.json",
        "task.json",
    }  # fmt: skip
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["objective"], config["task"]) == ("sft", "rewrite")
    assert TrainParser().given_by_file(run / "config.yaml") == config
    assert (run / "adapter" / "tokenizer.json").is_file()
    assert "trl" in json.loads((run / "environment.json").read_text())["versions"]


def test_answers_are_scored_before_and_after(run_of):
    first, *_, last = read_lines(run_of("lora2") / "metrics.jsonl")
    assert first == {"step": 0, "epoch": 0, "exact_match": 0.0}
    assert last["step"] == STEPS
    assert {"exact_match", "validation_loss", "mean_token_accuracy", "train_loss"} <= set(last)
    summary = summary_of(run_of("lora2"))
    assert summary["before"] == first
    assert summary["last"] == last
    assert summary["best"]["step"] > 0
    assert summary["main_metric"] == "exact_match"


def test_each_evaluation_is_one_line_of_output(language_model, tmp_path, capsys):
    assert train_texts(language_model, tmp_path / "run") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("lora2, ")]
    shown = [(line.split(": ")[0], line.split(": ")[1].split()[0]) for line in lines]
    assert shown == [
        ("lora2, epoch 0, step 0", "exact_match"),
        ("lora2, epoch 1, step 4", "validation_loss"),
        ("lora2, epoch 2, step 8", "validation_loss"),
        ("lora2, epoch 2, step 8", "exact_match"),
    ]


def test_budget_falls_as_in_every_run(run_of):
    logs = read_lines(run_of("lora2") / "log.jsonl")
    # 28 + 28 (1 − (t − 1)/4)³ after step 1, until three steps before the end: 14 matrices.
    assert [log["budget"] for log in logs] == [56, 39, 31, 28, 28, 28, 28, 28]
    assert sum(summary_of(run_of("lora2"))["kept_singular_values"].values()) == 28
    assert all(log["loss"] == log["task_loss"] for log in logs)


@pytest.mark.parametrize(
    "method", [n for n, m in METHODS.items() if n not in NOTHING_TO_TRAIN and not m.from_peft]
)
def test_every_method_trains_a_language_model(method, run_of):
    summary = summary_of(run_of(method))
    assert summary["method"] == method
    assert summary["steps"] == STEPS
    assert summary["trainable_parameters"]["head"] == 0
    assert summary["trainable_parameters"]["adapter"] > 0
    assert lora2("evaluate", run_of(method)) == 0
    assert lora2("generate", run_of(method), "--prompt=two kilos") == 0


OWN = {
    "chat": {"messages": CHAT},
    "prompt and completion": {"prompt": "A?", "completion": "B."},
    "text": {"text": "A? B."},
}


@pytest.mark.parametrize("case", OWN)
def test_own_rows_train_evaluate_and_generate(case, language_model, tmp_path, capsys):
    file, folder = write_rows(tmp_path / "mine.jsonl", *[OWN[case]] * 20), tmp_path / "run"
    own = {"train_rows": None, "validation_rows": None, "tinit": 0, "tfinal": 0}
    asked = 0 if case == "text" else 2
    assert train_texts(
        language_model, folder, f"--train_file={file}", **own, exact_match_rows=asked
    ) == 0  # fmt: skip
    assert summary_of(folder)["task"] == "mine"
    assert lora2("generate", folder, "--prompt=A?") == 0
    if asked:
        assert lora2("evaluate", folder, "--file", file) == 0
        assert "20 rows" in capsys.readouterr().out
    else:
        last = summary_of(folder)["last"]
        for more in ([], ["--file", file], ["--batch_size=1"]):
            capsys.readouterr()
            assert lora2("evaluate", folder, *more) == 0
            assert f"{last['mean_token_accuracy']:.4f}" in capsys.readouterr().out
        messages = write_rows(tmp_path / "prompts.jsonl", {"prompt": CHAT[:1]})
        assert "learnt from bare text" in refused(capsys, "generate", folder, "--file", messages)


def test_rows_without_an_answer_are_not_among_those_that_are_counted(
    language_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, folder = write_rows(tmp_path / "mine.jsonl", *[{"messages": CHAT}] * 20), tmp_path / "run"
    own = {"train_rows": None, "validation_rows": None, "tinit": 0, "tfinal": 0}
    assert train_texts(language_model, folder, f"--train_file={file}", **own) == 0
    # Two of four end in an answer; one has an answer to nothing.
    chats = [CHAT, CHAT[:3], CHAT[:2], CHAT[1:2]]
    file = write_rows(tmp_path / "chats.jsonl", *[{"messages": chat} for chat in chats])
    assert lora2("evaluate", folder, "--file", file) == 0
    assert "chats.jsonl, 2 rows" in capsys.readouterr().out


# Interrupted and resumed


def test_resumed_run_ends_as_the_uninterrupted_one(
    run_of, language_model, tmp_path, monkeypatch, capsys
):
    folder = tmp_path / "run"
    original = RunSftTrainer.training_step

    def training_step(self, *arguments, **named):
        if self.state.global_step == 5:
            raise KeyboardInterrupt
        return original(self, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(RunSftTrainer, "training_step", training_step)
        saving = {"save_strategy": "steps", "save_steps": 1}
        assert train_texts(language_model, folder, **saving) == 130
    assert f"lora2 train --output_dir {folder} --resume" in capsys.readouterr().err
    assert lora2("train", "--output_dir", folder, "--resume") == 0
    assert summary_of(folder)["resumed_from_step"] == 5
    ours, theirs = saved_weights(folder), saved_weights(run_of("lora2"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    scored = [
        [(r["step"], r.get("exact_match")) for r in read_lines(run / "metrics.jsonl")]
        for run in (folder, run_of("lora2"))
    ]
    assert scored[0] == scored[1]


# Used


@pytest.mark.parametrize("method", MERGED)
def test_merged_model_stands_alone(method, run_of, tmp_path):
    output = tmp_path / "merged"
    assert lora2("export", run_of(method), "--to=merged", "--output", output) == 0
    merged = AutoModelForCausalLM.from_pretrained(output).eval()
    tokens = torch.arange(20, 60).view(2, 20)
    with torch.no_grad():
        expected = load_saved_run(run_of(method)).model(tokens).logits
        torch.testing.assert_close(merged(tokens).logits, expected, atol=1e-5, rtol=1e-5)


def test_predict_refuses_a_run_that_writes(run_of, capsys):
    assert "lora2 generate" in refused(capsys, "predict", run_of("lora2"), "--text=a")


def test_inspect_draws_a_run_that_writes(run_of, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(run_of("lora2"), run)
    assert lora2("inspect", run) == 0
    assert len(list((run / "figures").iterdir())) == 3


def test_adapter_of_another_language_model(run_of, tmp_path, capsys):
    other = save_language_model(tmp_path / "other", layers=3)
    said = refused(capsys, "generate", run_of("lora2"), f"--model={other}", "--prompt=a")
    assert "another base model" in said
