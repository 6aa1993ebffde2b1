"""Files of a run that are damaged: one sentence that names the file, and nothing is trained."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from command_line import interrupt_at, lora2, refused, save_tiny_model, small_options, train
from lora2.errors import NumericalError
from lora2.training.on_disk.run_folder import RunFolder

Damage = Callable[[Path], None]


def content(data: bytes) -> Damage:
    return lambda path: path.write_bytes(data) and None


def missing(path: Path) -> None:
    path.unlink()


def half(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def changed(**fields: object) -> Damage:
    """Change fields of a JSON or YAML file; `...` removes one."""

    def change(path: Path) -> None:
        read, write = (
            (yaml.safe_load, yaml.safe_dump) if path.suffix == ".yaml" else (json.loads, json.dumps)
        )
        values = read(path.read_text()) | fields
        path.write_text(write({name: v for name, v in values.items() if v is not ...}))

    return change


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    def damage(path: Path) -> None:
        held = load_file(path)
        change(held)
        save_file(held, path, metadata={"format": "pt"})

    return damage


def rename_one(held: dict[str, torch.Tensor]) -> None:
    name = next(name for name in held if name.endswith("query.lora2_u"))
    held[f"{name}x"] = held.pop(name)


def widen_one(held: dict[str, torch.Tensor]) -> None:
    name = next(name for name in held if name.endswith("query.lora2_lambda"))
    held[name] = torch.ones(7)


ADAPTER = "adapter/adapter_config.json"
WEIGHTS = "adapter/adapter_model.safetensors"
# Command, file, damage, what the sentence says; the file's name always.
CASES: list[tuple[str, str, Damage, str]] = [
    ("predict", "config.yaml", content(b""), "is empty"),
    ("predict", "config.yaml", changed(model=...), "lacks the key 'model'"),
    ("evaluate", "config.yaml", changed(max_length="long"), "max_length is 'long'"),
    ("export", "config.yaml", changed(method="lora3"), "method is 'lora3'"),
    ("inspect", "config.yaml", content(b"[]"), "holds a list"),
    ("inspect", "config.yaml", changed(init_r=None), "init_r is null"),
    ("resume", "config.yaml", content(b""), "is empty"),
    ("resume", "config.yaml", changed(learning_rate=...), "lacks the key 'learning_rate'"),
    ("predict", "task.json", missing, "does not exist"),
    ("predict", "task.json", changed(label_names=["a"]), "label_names"),
    ("predict", "task.json", changed(text_columns=[]), "text_columns"),
    ("evaluate", "task.json", changed(metrics=...), "lacks the key 'metrics'"),
    ("export", "task.json", content(b"null"), "holds null"),
    ("predict", "summary.json", half, "was cut short"),
    ("inspect", "summary.json", changed(best=3), "best is 3"),
    ("inspect", "summary.json", changed(final_parameters={"adapter": "many"}), "final_parameters"),
    ("resume", "summary.json", changed(main_metric=...), "main_metric"),
    ("inspect", WEIGHTS, half, "is damaged"),
    ("inspect", "metrics.jsonl", content(b"NaN"), "line 1 holds null"),
    ("inspect", "log.jsonl", half, "was cut short"),
    ("inspect", "log.jsonl", content(b'{"step": 1}\n'), "lacks the key 'loss'"),
    ("predict", ADAPTER, missing, "does not exist"),
    ("predict", ADAPTER, half, "was cut short"),
    ("predict", ADAPTER, changed(peft_type="LORA9"), "peft_type='LORA9'"),
    ("export", ADAPTER, changed(k=-1), "k=-1"),
    ("predict", ADAPTER, changed(lora_alpha=...), "lacks the key 'lora_alpha'"),
    ("predict", ADAPTER, changed(target_modules=5), "target_modules is 5"),
    ("predict", ADAPTER, changed(k=3), "k=3 of"),
    ("predict", ADAPTER, changed(target_modules=["nothing"]), "target_modules"),
    ("start_from", ADAPTER, content(b"[]"), "holds a list"),
    ("import", ADAPTER, changed(peft_type=...), "lacks the key 'peft_type'"),
    ("predict", WEIGHTS, missing, "does not exist"),
    ("predict", WEIGHTS, half, "is damaged"),
    ("export", WEIGHTS, folder, "is a folder"),
    ("start_from", WEIGHTS, content(b"binary"), "is damaged"),
    ("predict", WEIGHTS, tensors(rename_one), "lacks base_model.model.bert.encoder.layer.0"),
    ("predict", WEIGHTS, tensors(lambda held: held.popitem()), "lacks base_model.model"),
    ("predict", WEIGHTS, tensors(widen_one), "does not fit the adapter_config.json"),
    ("predict", "adapter/config.json", changed(model_type=...), "lacks the key 'model_type'"),
    ("predict", "adapter/tokenizer.json", content(b"{}"), "the tokenizer in"),
    ("predict", "adapter/tokenizer_config.json", content(b"null"), "holds null"),
    ("predict", "adapter/tokenizer.json", half, "was cut short"),
]


def command(name: str, run: Path, model: Path, output: Path) -> list[object]:
    return {
        "predict": ["predict", run, "--text=the table is"],
        "evaluate": ["evaluate", run],
        "export": ["export", run, f"--output={output}"],
        "inspect": ["inspect", run],
        "import": ["import", run, f"--output={output}"],
        "resume": ["train", "--resume", f"--output_dir={run}"],
        "start_from": [
            "train", f"--model={model}", f"--output_dir={output}",
            *small_options(start_from=run),
        ],
    }[name]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "file", "damage", "said"),
    CASES,
    ids=[f"{case[0]}-{Path(case[1]).name}-{case[3]}" for case in CASES],
)
def test_a_damaged_file_is_named(
    name: str,
    file: str,
    damage: Damage,
    said: str,
    tiny_model: Path,
    finished_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    damage(run / file)
    sentence = refused(capsys, *command(name, run, tiny_model, tmp_path / "output"))
    assert said in sentence
    assert Path(file).name in sentence or f"{run / 'adapter'}" in sentence
    assert "another base model" not in sentence
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(
    "damage", [content(b""), changed(model=...), half], ids=["empty", "key_missing", "half"]
)
def test_an_unfinished_run_is_not_resumed_by_a_damaged_config(
    damage, interrupted_run, tmp_path, capsys
):
    run = tmp_path / "run"
    shutil.copytree(interrupted_run, run)
    damage(run / "config.yaml")
    assert "config.yaml" in refused(capsys, "train", "--resume", f"--output_dir={run}")
    assert not (run / "adapter").exists()


def test_a_damaged_baseline_is_named(interrupted_run, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(interrupted_run, run)
    changed(baseline="head")(run / "config.yaml")
    (run / "baseline.json").write_text('{"parameters": null}')
    said = refused(capsys, "train", "--resume", f"--output_dir={run}")
    assert "baseline.json: parameters is null" in said
    assert "the head alone is trained again" in said


def test_a_wider_base_model_is_blamed_where_sizes_prove_it(finished_run, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    model = save_tiny_model(tmp_path / "wider", hidden=32)
    said = refused(capsys, "predict", run, "--text=a", f"--model={model}")
    assert "of another base model" in said
    assert "16" in said
    assert "32" in said


def test_a_run_that_diverged_is_not_to_be_resumed(tiny_model, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("lora2.trainers.lora2_callback.check_loss", _diverge, raising=False)
        patch.setattr("lora2.training.trainer.loss_check.check_loss", _diverge)
        assert train(tiny_model, run) == 2
    said = capsys.readouterr().err
    assert "start over with --overwrite" in said
    assert RunFolder(run).has_diverged
    again = refused(capsys, "train", f"--model={tiny_model}", f"--output_dir={run}")
    assert "a run that diverged" in again
    assert "--resume" not in again
    assert "diverged" in refused(capsys, "predict", run, "--text=a")
    assert train(tiny_model, run, "--overwrite", num_train_epochs=1, tfinal=1) == 0
    assert not RunFolder(run).divergence_file.exists()


def _diverge(loss: float, step: int, *more: object) -> None:
    raise NumericalError(f"The training loss is nan at step {step}: lower the learning rate.")


def test_an_interrupted_run_is_to_be_resumed(tiny_model, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        interrupt_at(2, patch)
        assert train(tiny_model, tmp_path / "run") == 130
    assert "--resume" in refused(capsys, "predict", tmp_path / "run", "--text=a")
    assert lora2("inspect", tmp_path / "run") == 0
