import errno
import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, TrainerCallback

from command_line import lora2, refused, save_tiny_model, saved_weights, small_options, train
from lora2 import Lora2Config
from lora2.commands.train import resolve
from lora2.commands.train_parser import TrainParser
from lora2.training.on_disk.records import read_lines
from lora2.training.prepare import prepare

pytestmark = pytest.mark.slow

STEPS = 8


# What a run writes


def test_run_folder_holds_the_resolved_config(finished_run):
    config = yaml.safe_load((finished_run / "config.yaml").read_text())
    assert config["task"] == "agreement"
    assert config["k"] == 2
    assert config["lora_alpha"] == Lora2Config().lora_alpha
    assert config["seed"] == 0
    # It is a file for --config.
    assert TrainParser().given_by_file(finished_run / "config.yaml") == config


def test_run_folder_holds_one_line_per_evaluation(finished_run):
    records = read_lines(finished_run / "metrics.jsonl")
    assert [record["step"] for record in records] == [STEPS // 2, STEPS]
    for record in records:
        assert {"epoch", "accuracy", "validation_loss", "train_loss", "task_loss"} <= set(record)
    # Two layers of six matrices, from four singular values each to two on average.
    assert records[-1]["budget"] == records[-1]["kept_singular_values"] == 24


def test_run_folder_holds_one_line_per_training_log(finished_run):
    logs = read_lines(finished_run / "log.jsonl")
    assert [log["step"] for log in logs] == list(range(1, STEPS + 1))
    # 24 + 24 (1 − (t − 1)/4)³ after step 1, until three steps before the end.
    assert [log["budget"] for log in logs] == [48, 34, 27, 24, 24, 24, 24, 24]


def test_summary_names_best_last_sizes_and_kept_values(finished_run):
    summary = json.loads((finished_run / "summary.json").read_text())
    records = read_lines(finished_run / "metrics.jsonl")
    assert summary["last"] == records[-1]
    assert summary["best"]["accuracy"] == max(record["accuracy"] for record in records)
    assert summary["steps"] == STEPS
    assert summary["seed"] == 0
    assert summary["trainable_parameters"]["head"] == 16 * 2 + 2
    assert sum(summary["kept_singular_values"].values()) == 24
    assert "encoder.layer.0.attention.self.query" in "".join(summary["kept_singular_values"])
    # The installed name may lack the local part, such as +cpu.
    assert torch.__version__.startswith(summary["versions"]["torch"])
    assert set(summary["baseline"]) == {"parameters", "best", "last"}


def test_saved_adapter_is_compact_and_knows_the_labels(finished_run):
    sizes = [len(t) for name, t in saved_weights(finished_run).items() if name.endswith("lambda")]
    assert sum(sizes) == 24
    config = AutoConfig.from_pretrained(finished_run / "adapter")
    assert config.id2label == {0: "unacceptable", 1: "acceptable"}
    assert (finished_run / "adapter" / "tokenizer.json").is_file()


def test_environment_names_versions_and_seed(finished_run):
    environment = json.loads((finished_run / "environment.json").read_text())
    assert environment["seed"] == 0
    assert {"python", "lora2", "torch", "transformers", "peft"} <= set(environment["versions"])


def test_the_same_seed_gives_the_same_adapter(tiny_model, finished_run, tmp_path):
    # Without the baseline: training the head alone first must not move the run's random numbers.
    assert train(tiny_model, tmp_path / "again") == 0
    ours, theirs = saved_weights(tmp_path / "again"), saved_weights(finished_run)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_steps_are_counted_as_the_trainer_counts_them(tiny_model, tmp_path):
    for changed in (
        {"gradient_accumulation_steps": 3},
        {"train_sentences": 30, "num_train_epochs": 1.5},
        {"per_device_train_batch_size": 5, "dataloader_drop_last": True},
    ):
        options = [f"--model={tiny_model}", f"--output_dir={tmp_path / 'run'}"]
        options += small_options(tinit=0, tfinal=0, **changed)
        options += ["--eval_strategy=no", "--save_strategy=no"]
        prepared = prepare(resolve(TrainParser(), options))
        prepared.trainer.train()
        assert prepared.trainer.state.max_steps == prepared.steps


# Models and data of other kinds


def test_modules_without_pretrained_weights_are_trained(tmp_path):
    model = save_tiny_model(tmp_path / "model")
    state = load_file(model / "model.safetensors")
    kept = {name: tensor for name, tensor in state.items() if not name.startswith("pooler.")}
    save_file(kept, model / "model.safetensors", metadata={"format": "pt"})
    assert train(model, tmp_path / "run") == 0
    saved = saved_weights(tmp_path / "run")
    assert any("pooler.dense" in name for name in saved)
    assert any("classifier" in name for name in saved)


def test_regression_on_own_data(tiny_model, tmp_path, capsys):
    file = tmp_path / "mine.csv"
    rows = [f"the table is near {'a ' * (i % 5)},the doctor,{i % 5}" for i in range(40)]
    file.write_text("sentence1,sentence2,label\n" + "\n".join(rows) + "\n")
    folder = tmp_path / "run"
    assert train(tiny_model, folder, train_file=file, kind="regression") == 0
    record = read_lines(folder / "metrics.jsonl")[-1]
    assert {"pearson", "spearman"} <= set(record)
    capsys.readouterr()
    assert lora2("predict", folder, "--text=a table", "--text_pair=a doctor") == 0
    assert isinstance(json.loads(capsys.readouterr().out)["value"], float)


def test_both_validation_sets_of_mnli_are_recorded(tiny_model, tmp_path):
    data = tmp_path / "MNLI"
    data.mkdir()
    names = ("entailment", "neutral", "contradiction")
    rows = [f"the table is here\ta table is near\t{names[i % 3]}" for i in range(32)]
    text = "sentence1\tsentence2\tgold_label\n" + "\n".join(rows) + "\n"
    for name in ("train", "dev_matched", "dev_mismatched"):
        (data / f"{name}.tsv").write_text(text)
    folder = tmp_path / "run"
    assert train(tiny_model, folder, task="mnli", data_dir=tmp_path) == 0
    records = read_lines(folder / "metrics.jsonl")
    assert len(records) == 2
    assert {"matched_accuracy", "mismatched_accuracy", "matched_validation_loss"} <= set(records[0])
    assert json.loads((folder / "summary.json").read_text())["main_metric"] == "matched_accuracy"
    assert lora2("evaluate", folder) == 0


class KeepGradients(TrainerCallback):
    def __init__(self):
        self.gradients = {}

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                self.gradients[name] = parameter.grad.clone()


def first_gradients(model: Path, folder: Path, batch: int, accumulated: int):
    options = small_options(
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulated,
        max_steps=1,
        target_r="none",
        max_grad_norm=0,
        orthogonality="penalty",
        save_strategy="no",
        init_weights=False,
    )
    arguments = [f"--model={model}", f"--output_dir={folder}", *options]
    trainer = prepare(resolve(TrainParser(), arguments)).trainer
    keep = KeepGradients()
    trainer.add_callback(keep)
    trainer.train()
    return keep.gradients


def test_accumulated_batches_give_the_gradient_of_the_joint_batch(tmp_path):
    model = save_tiny_model(tmp_path / "model", dropout=0.0)
    joint, accumulated = (
        first_gradients(model, tmp_path / "run", batch, steps) for batch, steps in ((32, 1), (8, 4))
    )
    assert joint.keys() == accumulated.keys()
    assert max(float(gradient.abs().max()) for gradient in joint.values()) > 1e-3
    for name in joint:
        torch.testing.assert_close(accumulated[name], joint[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("max_steps", "last"), [(6, 4), (3, 3)])
def test_the_head_alone_is_trained_for_its_epochs_and_no_more_than_the_run(
    max_steps, last, tiny_model, tmp_path
):
    """An epoch has four steps."""
    options = {"baseline": "head", "baseline_epochs": 1, "max_steps": max_steps}
    assert train(tiny_model, tmp_path / "run", tinit=0, tfinal=0, **options) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["baseline"]["last"]["step"], summary["last"]["step"]) == (last, max_steps)


# The disk is full


def no_space(*arguments, **named):
    raise OSError(errno.ENOSPC, "No space left on device", "adapter_model.safetensors")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("[enforce fail] . PytorchStreamWriter failed writing file data/1"),
        RuntimeError("basic_ios::clear: iostream error"),
    ],
)
def test_full_disk_in_a_checkpoint_is_one_sentence(
    error, tiny_model, tmp_path, monkeypatch, capsys
):
    def fail(*arguments, **named):
        raise error

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", fail)
        assert "disk is full" in refused(
            capsys, "train", f"--model={tiny_model}", f"--output_dir={folder}", *small_options()
        )
    assert not (folder / "adapter").exists()
    assert lora2("train", "--output_dir", folder, "--resume") == 0


def test_full_disk_at_the_end_leaves_no_half_adapter(
    tiny_model, finished_run, tmp_path, monkeypatch, capsys
):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("transformers.PretrainedConfig.save_pretrained", no_space)
        assert "disk is full" in refused(
            capsys, "train", f"--model={tiny_model}", f"--output_dir={folder}", *small_options()
        )
    assert not (folder / "adapter").exists()
    assert not (folder / "summary.json").exists()
    assert not [path for path in folder.iterdir() if path.name.endswith(".tmp")]
    # Nothing is lost: the last checkpoint holds the finished training.
    assert lora2("train", "--output_dir", folder, "--resume") == 0
    ours, theirs = saved_weights(folder), saved_weights(finished_run)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
