"""`lora2 train --resume`: a run that was interrupted goes on, and as the run that it was."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from command_line import interrupt_at, lora2, refused, saved_weights, small_options, train
from lora2.training.on_disk.records import read_lines
from lora2.training.trainer.run_trainer import RunTrainer

pytestmark = pytest.mark.slow

STEPS = 8


@pytest.mark.parametrize("step", [1, 5])
def test_resumed_run_ends_as_the_uninterrupted_one(
    step, tiny_model, finished_run, tmp_path, monkeypatch, capsys
):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt_at(step, patch)
        assert train(tiny_model, folder, save_strategy="steps", save_steps=1) == 130
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"step {step} of {STEPS}" in said
    assert f"lora2 train --output_dir {folder} --resume" in said
    assert not (folder / "adapter").exists()
    assert lora2("train", "--output_dir", folder, "--resume") == 0
    ours, theirs = saved_weights(folder), saved_weights(finished_run)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert [r["accuracy"] for r in read_lines(folder / "metrics.jsonl")] == [
        r["accuracy"] for r in read_lines(finished_run / "metrics.jsonl")
    ]


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("adapter_model.safetensors", cut),
        ("adapter_model.safetensors", Path.unlink),
        ("optimizer.pt", cut),
        ("scheduler.pt", Path.unlink),
        ("rng_state.pth", Path.unlink),
        ("trainer_state.json", Path.unlink),
        ("trainer_state.json", cut),
    ],
)
def test_checkpoint_cut_short_is_skipped(file, damage, interrupted_run, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(interrupted_run, folder)
    damage(folder / "checkpoints" / "checkpoint-6" / file)
    assert lora2("train", "--output_dir", folder, "--resume") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Skipped: checkpoint-6 was cut short" in said
    assert file in said
    assert "Resuming from checkpoint-5." in said
    assert json.loads((folder / "summary.json").read_text())["resumed_from_step"] == 5


def without_first(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: weights[name] for name in sorted(weights)[1:]}


def narrower(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    name = next(name for name in weights if name.endswith("lora2_v"))
    return weights | {name: weights[name][:1].clone()}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (without_first, "lacks base_model.model"),
        (narrower, "lora2_v is [1, "),
        (lambda weights: weights | {"other": torch.zeros(1)}, "holds other"),
        (lambda weights: {f"{name}x": tensor for name, tensor in weights.items()}, "lacks"),
    ],
    ids=["one missing", "other size", "one more", "other names"],
)
def test_checkpoint_of_another_adapter_is_skipped(change, says, interrupted_run, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(interrupted_run, folder)
    path = folder / "checkpoints" / "checkpoint-6" / "adapter_model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})
    assert lora2("train", "--output_dir", folder, "--resume") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Skipped: checkpoint-6 is of another adapter or model" in said
    assert says in said
    assert "Resuming from checkpoint-5." in said


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("optimizer.pt", {"state": {}, "param_groups": []}, "optimizer and schedule"),
        ("optimizer.pt", {}, "optimizer and schedule"),
        ("rng_state.pth", {"seed": 1}, "random numbers"),
    ],
)
def test_a_state_of_another_run_is_named(file, content, says, interrupted_run, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(interrupted_run, folder)
    checkpoint = folder / "checkpoints" / "checkpoint-6"
    torch.save(content, checkpoint / file)
    said = refused(capsys, "train", f"--output_dir={folder}", "--resume")
    assert f"resume: the state of {says} in {checkpoint} is of another run or damaged" in said
    assert "remove that folder to resume from an earlier checkpoint" in said
    shutil.rmtree(folder / "checkpoints" / "checkpoint-5")
    said = refused(capsys, "train", f"--output_dir={folder}", "--resume")
    assert "there is no other complete checkpoint, so start over with --overwrite" in said


@pytest.mark.parametrize("name", ["epoch", "eval_accuracy"])
def test_checkpoint_whose_log_is_no_numbers_is_skipped(name, interrupted_run, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(interrupted_run, folder)
    path = folder / "checkpoints" / "checkpoint-6" / "trainer_state.json"
    state = json.loads(path.read_text())
    state["log_history"][0][name] = "x"
    path.write_text(json.dumps(state))
    assert lora2("train", "--output_dir", folder, "--resume") == 0
    assert "trainer_state.json is damaged" in " ".join(capsys.readouterr().out.split())


def test_resume_without_a_complete_checkpoint_starts_over(interrupted_run, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(interrupted_run, folder)
    shutil.rmtree(folder / "checkpoints")
    assert lora2("train", "--output_dir", folder, "--resume") == 0
    assert "the beginning" in capsys.readouterr().out


def test_resume_with_another_config_is_refused(interrupted_run, capsys):
    said = refused(capsys, "train", f"--output_dir={interrupted_run}", "--resume", "--k=3")
    assert "k: " in said
    assert "started with 2, not 3" in said


@pytest.mark.parametrize(
    ("option", "started"), [("max_steps=7", "-1"), ("optim=sgd", "adamw"), ("bf16=True", "False")]
)
def test_resume_with_another_option_of_the_trainer_is_refused(
    option, started, interrupted_run, capsys
):
    said = refused(capsys, "train", f"--output_dir={interrupted_run}", "--resume", f"--{option}")
    assert f"was started with {started}" in said.replace("'", "")


def test_options_that_change_no_result_may_change(interrupted_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(interrupted_run, folder)
    options = ["--ddp_timeout=7200", "--save_total_limit=1", "--dataloader_num_workers=0"]
    assert lora2("train", f"--output_dir={folder}", "--resume", *options) == 0


def test_what_a_killed_process_has_left_half_written_is_removed(interrupted_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(interrupted_run, folder)
    left = folder / ".adapter.0123456789abcdef.tmp"
    left.mkdir()
    (left / "adapter_model.safetensors").write_bytes(b"half")
    # What another command is writing here, such as an export.
    others = folder / ".merged.0123456789abcdef.tmp"
    others.mkdir()
    assert lora2("train", f"--output_dir={folder}", "--resume") == 0
    assert not left.exists()
    assert others.exists()


def test_resume_of_nothing_is_refused(tmp_path, capsys):
    assert "no run" in refused(capsys, "train", f"--output_dir={tmp_path / 'x'}", "--resume")
    assert not (tmp_path / "x").exists()


def test_resume_of_a_finished_run_shows_it(finished_run, capsys):
    assert lora2("train", f"--output_dir={finished_run}", "--resume") == 0
    assert "finished already" in capsys.readouterr().out


SAVES = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "epoch"}


SORTED = {
    "train_sampling_strategy": "group_by_length",
    "save_strategy": "epoch",
    "save_steps": None,
}
LOGS_EPOCHS = {"logging_strategy": "epoch", "eval_strategy": "steps", "eval_steps": 2}


@pytest.mark.parametrize(
    ("step", "more"),
    [(4, {}), (3, {"eval_on_start": True}), (4, LOGS_EPOCHS), (4, SORTED), (6, SORTED)],
    ids=str,
)
def test_evaluations_and_log_of_a_resumed_run_are_those_of_the_whole_one(
    step: int,
    more: dict[str, object],
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "run"
    options = {name: each for name, each in {**SAVES, **more}.items() if each is not None}
    assert train(tiny_model, whole, **options) == 0
    with monkeypatch.context() as patch:
        # At an epoch's end, whose checkpoint must hold its evaluation and its log.
        interrupt_at(step, patch)
        assert train(tiny_model, folder, **options) == 130
    assert lora2("train", "--output_dir", folder, "--resume") == 0
    ours, theirs = saved_weights(folder), saved_weights(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    for file in ("metrics.jsonl", "log.jsonl"):
        steps = [[line["step"] for line in read_lines(run / file)] for run in (folder, whole)]
        assert steps[0] == steps[1]


def test_an_interrupted_last_evaluation_is_made(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"

    def interrupted(self: RunTrainer, *arguments: object, **named: object) -> None:
        if self.state.global_step == STEPS:
            raise KeyboardInterrupt
        return original(self, *arguments, **named)

    original = RunTrainer.evaluate
    with monkeypatch.context() as patch:
        patch.setattr(RunTrainer, "evaluate", interrupted)
        assert train(tiny_model, folder, **SAVES) == 130
    assert lora2("train", "--output_dir", folder, "--resume") == 0
    assert json.loads((folder / "summary.json").read_text())["last"]["step"] == STEPS


@pytest.mark.parametrize("rows", [32, 48])
def test_other_data_under_the_same_name_are_refused(
    rows: int,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def write(count: int, flipped: int) -> None:
        lines = [f"the cat {number},{(number + flipped) % 2}" for number in range(count)]
        file.write_text("\n".join(["text,label", *lines]) + "\n")

    file, folder = tmp_path / "mine.csv", tmp_path / "run"
    write(32, 0)
    small = [option for option in small_options(**SAVES) if "sentences" not in option]
    places = (f"--train_file={file}", f"--model={tiny_model}", f"--output_dir={folder}")
    with monkeypatch.context() as patch:
        interrupt_at(3, patch)
        assert lora2("train", *places, *small) == 130
    write(rows, 1)
    said = refused(capsys, "train", "--output_dir", folder, "--resume")
    assert "resume: the training rows are not those that the run in" in said
    write(32, 0)
    assert lora2("train", "--output_dir", folder, "--resume") == 0


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("train_sampling_strategy", "group_by_length", "train_sampling_strategy=group_by_length"),
        ("accelerator_config", '{"use_seedable_sampler": false}', "use_seedable_sampler=false"),
    ],
)
def test_an_order_that_cannot_be_drawn_again_is_refused(
    option: str,
    value: str,
    named: str,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt_at(3, patch)
        assert train(tiny_model, folder, **SAVES, **{option: value}) == 130
    # What is advised must not be refused.
    assert "start over with" in capsys.readouterr().err
    said = refused(capsys, "train", "--output_dir", folder, "--resume")
    assert f"{named}: the order of its rows" in said
