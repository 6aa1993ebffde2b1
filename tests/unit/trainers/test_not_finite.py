"""NaN, infinity and scales beyond float32, in any file: every command stops and names the layer."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from command_line import lora2, refused, train
from language_model import train_texts
from lora2 import Lora2Config, SoraConfig, UserError, export_gguf, export_lora
from lora2.errors import NumericalError
from lora2.training.base_models.generation import generate
from lora2.training.on_disk.run_folder import RunFolder

ADAPTER_FILE = "adapter_model.safetensors"


def poisoned(source: Path, copy: Path, file: str, part: str, value: float) -> Path:
    """Copy a folder, and put a number into a tensor whose name holds `part`."""
    shutil.copytree(source, copy)
    tensors = load_file(copy / file)
    name = next(name for name, each in tensors.items() if part in name and each.numel())
    tensors[name].view(-1)[0] = value
    save_file(tensors, copy / file, metadata={"format": "pt"})
    return copy


def with_field(source: Path, copy: Path, name: str, value: float) -> Path:
    """Copy a run folder, and change a field of its adapter's config."""
    shutil.copytree(source, copy)
    file = copy / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {name: value}))
    return copy


COMMANDS: dict[str, Callable[[Path, Path], list[object]]] = {
    "predict": lambda run, output: ["predict", run, "--text=the table is here"],
    "evaluate": lambda run, output: ["evaluate", run],
    "lora": lambda run, output: ["export", run, "--output", output],
    "merged": lambda run, output: ["export", run, "--to=merged", "--output", output],
    "combine": lambda run, output: ["combine", run, run, "--output", output],
}


@pytest.fixture(scope="module")
def written_run(language_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "rewrite"
    assert train_texts(language_model, folder, max_steps=6) == 0
    return folder


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_adapter_that_is_not_finite_is_refused(command, value, finished_run, tmp_path, capsys):
    run = poisoned(finished_run, tmp_path / "run", f"adapter/{ADAPTER_FILE}", "lora2_V", value)
    said = refused(capsys, *COMMANDS[command](run, tmp_path / "output"))
    assert "NaN or infinity in base_model.model.bert.encoder.layer.0" in said
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_base_model_that_is_not_finite_is_refused(
    command, tiny_model, finished_run, tmp_path, capsys
):
    base = poisoned(tiny_model, tmp_path / "base", "model.safetensors", "query", float("nan"))
    arguments = COMMANDS[command](finished_run, tmp_path / "output")
    said = refused(capsys, *arguments, f"--model={base}")
    assert "attention.self.query" in said
    assert str(base) in said


def test_a_base_model_that_is_not_finite_is_not_trained(tiny_model, tmp_path, capsys):
    base = poisoned(tiny_model, tmp_path / "base", "model.safetensors", "query", float("inf"))
    assert train(base, tmp_path / "run") == 2
    assert "attention.self.query" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("alpha", [1e40, 0])
def test_a_scale_that_float32_cannot_hold_is_refused(
    command, alpha, finished_run, tmp_path, capsys
):
    run = with_field(finished_run, tmp_path / "run", "lora_alpha", alpha)
    assert "lora_alpha" in refused(capsys, *COMMANDS[command](run, tmp_path / "output"))


@pytest.mark.parametrize("command", ["predict", "evaluate", "lora", "merged"])
@pytest.mark.parametrize(
    ("part", "value", "named"),
    [
        ("lora2_lambda", 1e30, "in the change of"),
        # Both factors are finite, and their product is not.
        ("lora2_V", 3e38, "in the output of"),
    ],
)
def test_finite_numbers_that_overflow_together_are_refused(
    part, value, named, command, finished_run, tmp_path, capsys
):
    file = f"adapter/{ADAPTER_FILE}"
    run = poisoned(finished_run, tmp_path / "large", file, part, value)
    run = with_field(run, tmp_path / "run", "lora_alpha", 1e10)
    said = refused(capsys, *COMMANDS[command](run, tmp_path / "output"))
    assert f"NaN or infinity {named} base_model.model.bert.encoder.layer.0" in said
    assert "lora_alpha" in said


@pytest.mark.parametrize("merged", [[], ["--merged"]])
def test_nothing_is_written_by_a_model_that_is_not_finite(merged, written_run, tmp_path, capsys):
    file = f"adapter/{ADAPTER_FILE}"
    run = poisoned(written_run, tmp_path / "run", file, "lora2_V", float("nan"))
    assert "NaN or infinity" in refused(capsys, "generate", run, "--prompt=a", *merged)


def test_generation_names_the_layer(language_model):
    model = AutoModelForCausalLM.from_pretrained(language_model)
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] = torch.nan
    tokenizer = AutoTokenizer.from_pretrained(language_model)
    with pytest.raises(NumericalError, match=r"model\.layers\.1\.mlp\.up_proj"):
        list(generate(model, tokenizer, ["abc"], max_new_tokens=2))


def test_inspect_counts_no_nan(finished_run, tmp_path, capsys):
    file = f"adapter/{ADAPTER_FILE}"
    run = poisoned(finished_run, tmp_path / "run", file, "lora2_lambda", float("nan"))
    assert "bert.encoder.layer" in refused(capsys, "inspect", run)


def test_inspect_shows_a_run_without_singular_values(finished_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    file = run / "adapter" / ADAPTER_FILE
    tensors = {name: each for name, each in load_file(file).items() if "lora2_" not in name}
    save_file(tensors, file, metadata={"format": "pt"})
    assert lora2("inspect", run) == 0


def test_a_lora_that_is_not_finite_is_not_imported(language_model, tmp_path, capsys):
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(language_model),
        LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], lora_alpha=float("nan")),
    )
    model.save_pretrained(str(tmp_path / "lora"))
    command = ("import", tmp_path / "lora", f"--model={language_model}")
    said = refused(capsys, *command, "--output", tmp_path / "output")
    assert "adapter_config.json holds NaN" in said


@pytest.mark.parametrize("method", ["lora", "lora2"])
def test_weights_that_diverge_in_the_last_steps_are_not_saved(method, tiny_model, tmp_path, capsys):
    """Nothing else looks: no loss is logged, and nothing evaluated."""
    quiet = {"logging_steps": 1000, "eval_strategy": "no", "learning_rate": 1e30}
    assert train(tiny_model, tmp_path / "run", method=method, **quiet) == 2
    assert "NaN or infinity in" in capsys.readouterr().err
    assert not RunFolder(tmp_path / "run").is_finished


@pytest.mark.parametrize("export", [export_lora, export_gguf])
def test_python_exports_name_the_layer_of_the_base_model(export, language_model, tmp_path):
    base = AutoModelForCausalLM.from_pretrained(language_model)
    model = get_peft_model(base, Lora2Config(k=2, init_r=2, task_type="CAUSAL_LM"))
    base.model.layers[0].mlp.up_proj.weight.data[0, 0] = torch.inf
    with pytest.raises(NumericalError, match=r"layers\.0\.mlp"):
        export(model, tmp_path / "output")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("config", [Lora2Config, SoraConfig])
@pytest.mark.parametrize("alpha", [0, -1, 1e40, 10**400, 1e-60, float("inf"), "4", True, None])
def test_an_alpha_that_float32_cannot_hold_is_refused(config, alpha):
    with pytest.raises(UserError, match="lora_alpha="):
        config(lora_alpha=alpha)
