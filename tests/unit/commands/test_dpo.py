"""`lora2 train --objective dpo` on a tiny language model, and what other commands make of it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from command_line import lora2, refused, saved_weights
from language_model import train_texts, write_rows
from lora2.training.objectives.registry import objective_of
from lora2.training.on_disk.records import read_lines
from lora2.training.run_loading import load_saved_run, load_validation
from lora2.training.trainer.dpo_trainer import RunDpoTrainer

pytestmark = pytest.mark.slow

SAVING = {
    "save_strategy": "steps", "save_steps": 2, "learning_rate": 0.01, "num_train_epochs": 1,
    "tinit": 1, "tfinal": 1,
}  # fmt: skip


def trained(model: Path, folder: Path, **options: object) -> int:
    return train_texts(model, folder, objective="dpo", **SAVING | options)


def measured(folder: Path) -> dict[str, float]:
    run = load_saved_run(folder)
    rows = load_validation(run, None).validation["validation"]
    return objective_of(run.settings).measure(run, rows, 4).metrics


def test_a_run_is_trained_resumed_evaluated_and_used(
    language_model: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    whole, resumed, second, fourth = (
        tmp_path / name for name in ("whole", "resumed", "second", "fourth")
    )
    step = RunDpoTrainer.training_step

    def interrupted(self, *arguments, **named):
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return step(self, *arguments, **named)

    assert trained(language_model, whole) == 0
    with monkeypatch.context() as patch:
        patch.setattr(RunDpoTrainer, "training_step", interrupted)
        assert trained(language_model, resumed) == 130
        # The reference of this one is the adapter that it starts from.
        assert trained(language_model, second, start_from=whole) == 130
        assert trained(language_model, fourth, start_from=whole) == 130
    assert lora2("train", "--output_dir", resumed, "--resume") == 0
    assert all(
        torch.equal(saved_weights(resumed)[name], each)
        for name, each in saved_weights(whole).items()
    )

    last = json.loads((whole / "summary.json").read_text())["last"]
    assert {"validation_loss", "rewards/accuracies", "rewards/margins"} <= set(last)
    assert last == read_lines(whole / "metrics.jsonl")[-1]
    names = ("rewards/accuracies", "rewards/margins")
    found = measured(whole)
    assert [found[name] for name in names] == pytest.approx([last[n] for n in names], abs=1e-5)
    assert "rewards/margins" in (whole / "adapter" / "README.md").read_text()

    assert lora2("train", "--output_dir", second, "--resume") == 0
    assert trained(language_model, tmp_path / "third", start_from=whole) == 0
    ours, theirs = saved_weights(second), saved_weights(tmp_path / "third")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    last = json.loads((second / "summary.json").read_text())["last"]
    assert measured(second)["rewards/margins"] == pytest.approx(last["rewards/margins"], abs=1e-5)

    assert lora2("generate", whole, "--prompt=two kilos") == 0
    assert lora2("export", whole, "--to=merged", "--output", tmp_path / "merged") == 0
    assert lora2("export", whole, "--to=lora", "--output", tmp_path / "lora") == 0

    # Another adapter in the place of the one that they start from.
    doubled = {name: 2 * tensor for name, tensor in saved_weights(whole).items()}
    save_file(doubled, whole / "adapter" / "adapter_model.safetensors")
    for command in (("train", "--output_dir", fourth, "--resume"), ("evaluate", second)):
        said = refused(capsys, *command)
        assert f"start_from: the adapter in {whole} is not the one" in said
    pairs = [{"prompt": [{"role": "user", "content": "a"}],
              "chosen": [{"role": "assistant", "content": "b"}],
              "rejected": [{"role": "assistant", "content": "c"}]}] * 4  # fmt: skip
    capsys.readouterr()
    assert lora2("evaluate", whole, "--file", write_rows(tmp_path / "mine.jsonl", *pairs)) == 0
    said = capsys.readouterr().out
    assert "rewards/accuracies" in said
    assert "mine.jsonl, 4 rows\n" in said
    long = [pairs[0] | {"prompt": [{"role": "user", "content": "a" * 99}]}] * 4
    said = refused(capsys, "evaluate", whole, "--file", write_rows(tmp_path / "long.jsonl", *long))
    assert "max_length=96 cuts off all" in said
    some = write_rows(tmp_path / "some.jsonl", *long[:3], *pairs)
    assert lora2("evaluate", whole, "--file", some) == 0
    assert (
        "some.jsonl, 4 rows (left out: 3, because max_length=96 cuts off all that is scored)\n"
        in capsys.readouterr().out
    )


PAIRS = {
    "text": {"prompt": "A?", "chosen": " B.", "rejected": " C."},
    "messages without a prompt": {
        "chosen": [{"role": "user", "content": "A?"}, {"role": "assistant", "content": "B."}],
        "rejected": [{"role": "user", "content": "A?"}, {"role": "assistant", "content": "C."}],
    },
}


@pytest.mark.parametrize("case", PAIRS)
def test_own_rows_are_learnt(case: str, language_model: Path, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "mine.jsonl", *[PAIRS[case]] * 20)
    own = {"train_file": file, "train_rows": None, "validation_rows": None}
    folder = tmp_path / "run"
    assert trained(language_model, folder, **own, save_strategy="no", save_steps=None) == 0
    last = json.loads((folder / "summary.json").read_text())["last"]
    assert last["rewards/accuracies"] == 1
    assert measured(folder)["rewards/accuracies"] == 1
