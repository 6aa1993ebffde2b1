"""The digest of a base model's weights: of what was loaded, wherever and however it is kept."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from command_line import interrupt_at, lora2, refused, train
from lora2.training.base_models.weight_digest import is_of_other_weights, weight_digest


def model_with_head() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(40, 8), nn.Linear(8, 8), nn.Linear(8, 2))


def test_digest_is_of_the_weights_that_were_loaded():
    model, digest = model_with_head(), weight_digest(model_with_head(), ["2"])
    model[2].reset_parameters()
    assert weight_digest(model, ["2"]) == digest
    rows = torch.cat([model[0].weight, torch.ones(4, 8)])
    model[0].weight = nn.Parameter(rows)
    assert weight_digest(model, ["2"]) == digest
    assert weight_digest(model, []) != digest
    with torch.no_grad():
        model[1].bias[7] += 1e-7
    assert weight_digest(model, ["2"]) != digest


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_digest_does_not_depend_on_the_type_that_holds_the_numbers(dtype):
    model = model_with_head().to(dtype)
    digest = weight_digest(model, [])
    assert weight_digest(model.to(torch.float64), []) == digest


def test_weights_that_are_not_here_have_no_digest():
    assert weight_digest(model_with_head().to("meta"), []) is None
    model = model_with_head()
    model[1].weight.data = torch.empty(0)
    assert weight_digest(model, []) is None
    model[1].weight = nn.Parameter(torch.zeros(8, 8, dtype=torch.uint8), requires_grad=False)
    assert weight_digest(model, []) is None


@pytest.mark.parametrize(
    ("digest", "stored", "other"),
    [
        ("a", {"base_weights": "a"}, False),
        ("a", {"base_weights": "b"}, True),
        ("a", {}, False),
        (None, {"base_weights": "a"}, False),
    ],
)
def test_weights_without_a_digest_are_believed(digest, stored, other):
    assert is_of_other_weights(digest, stored) is other


def train_further(model):
    """Change the weights in a model's folder as another training would."""
    file = model / "model.safetensors"
    tensors = {name: 1.01 * tensor for name, tensor in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.slow
def test_run_tells_that_its_base_model_was_replaced(tiny_model, tmp_path, monkeypatch, capsys):
    model, moved, folder = tmp_path / "model", tmp_path / "moved", tmp_path / "run"
    shutil.copytree(tiny_model, model)
    with monkeypatch.context() as patch:
        interrupt_at(6, patch)
        assert train(model, folder, save_strategy="steps", save_steps=1) == 130
    shutil.copytree(model, moved)
    train_further(model)
    said = refused(capsys, "train", "--output_dir", folder, "--resume")
    assert f"the weights of {model} are not those that the run in {folder} was started with" in said
    shutil.rmtree(model)
    shutil.copytree(moved, model)
    assert lora2("train", "--output_dir", folder, "--resume") == 0

    train_further(model)
    with pytest.warns(UserWarning, match="are not those that the adapter in .* was trained on"):
        assert lora2("predict", folder, "--text=the cat sits") == 0
    # Where they are does not matter.
    assert lora2("predict", folder, "--text=the cat sits", f"--model={moved}") == 0
    # A run of an older version has no digest.
    task = json.loads((folder / "task.json").read_text())
    del task["base_weights"]
    (folder / "task.json").write_text(json.dumps(task))
    assert lora2("predict", folder, "--text=the cat sits") == 0
