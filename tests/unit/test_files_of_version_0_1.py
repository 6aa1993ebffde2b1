"""What version 0.1.0 wrote, before its folders were rearranged, still loads and continues."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import BertForSequenceClassification, Trainer, TrainingArguments

from command_line import lora2
from lora2 import Lora2Callback, Lora2Config
from lora2.lab.experiments.description import RunDescription
from lora2.lab.experiments.presets.registry import PRESETS
from lora2.lab.experiments.presets.table_request import TableRequest
from lora2.lab.experiments.rates import read_choices
from lora2.lab.experiments.record import RecordFolder
from lora2.reports.kept_values import read_kept
from lora2.training.on_disk.records import read_lines
from lora2.tuners.base.layers.finding import adapted_layers
from unit.tiny_transformers import Examples
from upstream import WRITTEN_WITH_NUMPY_2

pytestmark = pytest.mark.slow

FIXTURES = Path(__file__).parents[1] / "fixtures" / "version_0_1"
ADAPTERS = sorted(path.name for path in (FIXTURES / "adapters").iterdir() if path.is_dir())
RECORDS = sorted((FIXTURES / "records").glob("stsb-*.json"))
NAMES: dict[str, list[str]] = json.loads((FIXTURES / "records" / "names.json").read_text())
WEIGHTS = "adapter_model.safetensors"


def base_model() -> BertForSequenceClassification:
    return BertForSequenceClassification.from_pretrained(FIXTURES / "tiny-bert")


def assert_same_adapter(found: Path, expected: Path) -> None:
    """Check the kept singular values, the change of each weight, and the head.

    The tensors differ, since a pruned matrix is now saved with k of what it kept.
    """
    assert read_kept(found / WEIGHTS) == read_kept(expected / WEIGHTS)
    models = [PeftModel.from_pretrained(base_model(), folder) for folder in (found, expected)]
    changes = [
        {
            name: m.get_delta_weight("default")
            for name, m in adapted_layers(model, "default").items()
        }
        for model in models
    ]
    for name, change in changes[1].items():
        torch.testing.assert_close(changes[0][name], change, atol=1e-5, rtol=1e-4, msg=name)
    heads = [load_file(folder / WEIGHTS) for folder in (found, expected)]
    for name in (key for key in heads[1] if "lora2_" not in key):
        torch.testing.assert_close(heads[0][name], heads[1][name], atol=1e-6, rtol=1e-5, msg=name)


# Adapters


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapter_computes_what_it_did(name: str) -> None:
    numbers = load_file(FIXTURES / "adapters" / "logits.safetensors")
    model = PeftModel.from_pretrained(base_model(), FIXTURES / "adapters" / name).eval()
    with torch.no_grad():
        found = model(input_ids=numbers["input_ids"]).logits
    torch.testing.assert_close(found, numbers[name])


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapter_saved_again_is_the_same(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # PEFT looks for the base model under its name in the config.
    monkeypatch.chdir(FIXTURES)
    folder = FIXTURES / "adapters" / name
    model = PeftModel.from_pretrained(base_model(), folder, is_trainable=True)
    model.save_pretrained(tmp_path)
    found, expected = (load_file(each / WEIGHTS) for each in (tmp_path, folder))
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        # Of a matrix that kept nothing, the outer factors were saved before.
        assert torch.equal(found[key], tensor) or not found[key].numel(), key
    fields = {field.name for field in dataclasses.fields(model.peft_config["default"])}
    fields &= json.loads((folder / "adapter_config.json").read_text()).keys()
    assert _config(tmp_path, fields) == _config(folder, fields)


def _config(folder: Path, fields: set[str]) -> dict[str, Any]:
    """The fields that the installed PEFT has, too; PEFT repeats names and keeps no order."""
    content = json.loads((folder / "adapter_config.json").read_text())
    return {
        name: sorted(set(content[name])) if isinstance(content[name], list) else content[name]
        for name in fields - {"peft_version"}
        if name in content
    }


# The Trainer's checkpoints


@WRITTEN_WITH_NUMPY_2
def test_checkpoint_in_the_middle_of_pruning_ends_as_the_uninterrupted_training(
    tmp_path: Path,
) -> None:
    trainer = Trainer(
        get_peft_model(
            base_model(),
            Lora2Config(
                k=2, init_r=3, target_r=1, lora_alpha=16.0, tinit=2, tfinal=3, deltaT=2,
                task_type="SEQ_CLS",
            ),
        ),
        TrainingArguments(
            str(tmp_path / "run"), max_steps=10, per_device_train_batch_size=4, learning_rate=1e-2,
            logging_steps=1, save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True,
            dataloader_pin_memory=False, seed=5,
        ),
        train_dataset=Examples(load_file(FIXTURES / "trainer" / "rows.safetensors")),
        callbacks=[Lora2Callback()],
    )  # fmt: skip
    trainer.model_accepts_loss_kwargs = False
    trainer.train(resume_from_checkpoint=str(FIXTURES / "trainer" / "checkpoint-5"))
    trainer.save_model(str(tmp_path / "end"))
    assert_same_adapter(tmp_path / "end", FIXTURES / "trainer" / "end")


# Run folders


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of all fixtures, and the current folder: paths in run folders are relative to it."""
    copy = tmp_path / "version_0_1"
    shutil.copytree(FIXTURES, copy)
    monkeypatch.chdir(copy)
    return copy


def test_finished_run_predicts_what_it_did(folder: Path) -> None:
    arguments = ("predict", "run_folders/finished", "--file=data/validation.csv")
    assert lora2(*arguments, "--output=found.jsonl") == 0
    found, expected = map(
        _lines, (folder / "found.jsonl", folder / "run_folders/predictions.jsonl")
    )
    for row, wanted in zip(found, expected, strict=True):
        assert row.pop("probabilities") == pytest.approx(wanted.pop("probabilities"), abs=2e-6)
        assert row == wanted


@pytest.mark.parametrize("name", ["finished", "texts"])
def test_finished_run_is_evaluated_and_inspected(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metric = json.loads((folder / "run_folders" / name / "summary.json").read_text())["main_metric"]
    for command in ("evaluate", "inspect"):
        assert lora2(command, f"run_folders/{name}") == 0
        assert metric in capsys.readouterr().out


@WRITTEN_WITH_NUMPY_2
def test_interrupted_run_ends_as_the_uninterrupted_one(folder: Path) -> None:
    assert lora2("train", "--output_dir=run_folders/interrupted", "--resume") == 0
    found, expected = (folder / "run_folders" / name for name in ("interrupted", "finished"))
    assert_same_adapter(found / "adapter", expected / "adapter")
    summary, wanted = (
        json.loads((each / "summary.json").read_text()) for each in (found, expected)
    )
    assert summary["resumed_from_step"] == 5
    assert summary["kept_singular_values"] == wanted["kept_singular_values"]
    assert summary["final_parameters"]["adapter"] < wanted["final_parameters"]["adapter"]
    for row, wanted_row in zip(
        *(read_lines(each / "metrics.jsonl") for each in (found, expected)), strict=True
    ):
        assert row == pytest.approx(wanted_row, rel=1e-3)


def test_run_on_texts_writes_what_it_did(folder: Path) -> None:
    arguments = ("generate", "run_folders/texts", "--file=data/texts.jsonl")
    assert lora2(*arguments, "--output=found.jsonl") == 0
    assert _lines(folder / "found.jsonl") == _lines(folder / "run_folders/completions.jsonl")


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# Records


def _runs(table: str) -> list[RunDescription]:
    """The runs of seed 0 of a table, at the learning rates that were chosen."""
    name, _, table = table.partition(" ")
    choices = read_choices(FIXTURES / "records") if name == "small" else {}
    preset = PRESETS[name]
    return list(preset.grid(TableRequest(table, preset.model, (0,), choices)).descriptions())


@pytest.mark.parametrize("table", NAMES)
def test_runs_of_each_table_keep_their_identities(table: str) -> None:
    assert sorted(run.name for run in _runs(table)) == NAMES[table]


def test_every_table_of_that_time_is_still_there() -> None:
    assert set(NAMES) <= {f"{p.name} {table}" for p in PRESETS.values() for table in p.tables}


def test_runs_that_have_a_record_are_not_run_again() -> None:
    records = RecordFolder(FIXTURES / "records")
    runs = set(_runs("small table1"))
    with_record = runs - set(records.missing(runs))
    assert {run.name for run in with_record} == {path.stem for path in RECORDS}


@pytest.mark.parametrize(
    "path", sorted((FIXTURES / "records").glob("stsb-*.json")), ids=lambda path: path.stem
)
def test_record_written_again_is_the_same(path: Path, tmp_path: Path) -> None:
    description = RunDescription.from_dict(json.loads(path.read_text())["description"])
    record = RecordFolder(FIXTURES / "records").find(description)
    assert record is not None
    RecordFolder(tmp_path).write(record)
    assert (tmp_path / path.name).read_text() == path.read_text()
