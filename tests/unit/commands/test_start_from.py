"""Training continues from an adapter: LoRA², or a LoRA that becomes LoRA²."""

import json
from pathlib import Path

import pytest
import torch

from command_line import lora2, refused, save_tiny_model, small_options
from lora2.commands.train import resolve
from lora2.commands.train_parser import TrainParser
from lora2.training.prepare import prepare
from lora2.training.run_loading import load_saved_run
from unit.models import difference, layers_of

pytestmark = pytest.mark.slow

TOKENS = torch.arange(4, 36).view(2, 16)


@pytest.fixture(scope="module")
def starts(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run of each method; do not write into them."""
    folders = {}
    for method in ("lora", "adalora", "lora2"):
        folders[method] = tmp_path_factory.mktemp("runs") / method
        options = small_options(
            {"tfinal": 1}, method=method, learning_rate=1e-2, num_train_epochs=1
        )
        start = ("train", f"--model={tiny_model}")
        assert lora2(*start, f"--output_dir={folders[method]}", *options) == 0
    return folders


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model.eval()(TOKENS).logits


@pytest.mark.parametrize("method", ["lora", "adalora", "lora2"])
def test_training_starts_at_what_was_learnt(method, starts, tiny_model, tmp_path):
    arguments = [
        f"--model={tiny_model}", f"--output_dir={tmp_path / 'run'}",
        *small_options(start_from=starts[method], target_r=1),
    ]  # fmt: skip
    prepared = prepare(resolve(TrainParser(), arguments))
    model = prepared.trainer.model
    assert difference(logits(model), logits(load_saved_run(starts[method]).model)) < 1e-5
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    for part in ("lora2_V", "lora2_lambda", "classifier.modules_to_save"):
        assert any(part in name for name in trained)
    assert not any("base_layer" in name for name in trained)


@pytest.mark.parametrize("method", ["lora", "lora2"])
def test_training_goes_on_with_pruning(method, starts, tiny_model, tmp_path):
    folder = tmp_path / "run"
    options = small_options(start_from=starts[method], target_r=0.5, learning_rate=1e-2)
    start = ("train", f"--model={tiny_model}")
    assert lora2(*start, f"--output_dir={folder}", *options) == 0
    summary = json.loads((folder / "summary.json").read_text())
    count = len(layers_of(load_saved_run(folder).model))
    assert sum(summary["kept_singular_values"].values()) == count // 2
    assert lora2("evaluate", folder) == 0


def test_a_lora_becomes_what_the_options_say(starts, tiny_model, tmp_path):
    arguments = [
        f"--model={tiny_model}", f"--output_dir={tmp_path / 'run'}", "--orthogonality=penalty",
        "--orth_reg_weight=0.5", "--lora_alpha=8",
        *small_options(start_from=starts["lora"], target_r=1),
    ]  # fmt: skip
    model = prepare(resolve(TrainParser(), arguments)).trainer.model
    config = model.peft_config["default"]
    assert (config.orthogonality, config.orth_reg_weight, config.lora_alpha) == ("penalty", 0.5, 8)
    assert difference(logits(model), logits(load_saved_run(starts["lora"]).model)) < 1e-5


def test_run_is_not_cleared_that_training_is_to_start_from(finished_run, tiny_model, capsys):
    command = ("train", f"--model={tiny_model}", "--overwrite", f"--output_dir={finished_run}")
    said = refused(capsys, *command, *small_options(start_from=finished_run))
    assert "is in the run folder" in said
    assert (finished_run / "adapter").is_dir()


def test_inputs_are_dropped_as_asked(starts, tiny_model, tmp_path):
    arguments = [
        f"--model={tiny_model}", f"--output_dir={tmp_path / 'run'}", "--lora_dropout=0.3",
        *small_options(start_from=starts["lora2"], target_r=1),
    ]  # fmt: skip
    model = prepare(resolve(TrainParser(), arguments)).trainer.model
    dropouts = [layer.adapter_dropout["default"].p for layer in layers_of(model).values()]
    assert set(dropouts) == {0.3}


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"start_from": "nowhere"}, "no adapter_config.json"),
        ({"method": "sora"}, "start_from"),
        ({"model": "wider"}, "another base model"),
        ({"target_r": 9}, "target_r=9"),
        ({"lora_alpha": 8}, "lora_alpha=8.0: the adapter in"),
        ({"orthogonality": "penalty"}, "was trained with exact, and this training uses the same"),
    ],
)
def test_what_cannot_be_gone_on_from_is_refused(
    changed, named, starts, tiny_model, tmp_path, capsys
):
    if "model" in changed:
        changed = {"model": save_tiny_model(tmp_path / "wider", hidden=32)}
    given = {"model": tiny_model, "start_from": starts["lora2"]} | changed
    folder = tmp_path / "run"
    command = ("train", *small_options(**given), f"--output_dir={folder}")
    assert named in refused(capsys, *command)
    assert not folder.exists()
