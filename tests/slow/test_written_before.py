"""What was written before the folders were moved loads, and continues as it would have."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForSequenceClassification

import lora2
from command_line import lora2 as command
from lora2.lab.experiments.record import RecordFolder, RunRecord
from lora2.reports.kept import read_kept
from lora2.tuners.base.layer import layers_with

WRITTEN = Path(__file__).parents[1] / "fixtures" / "before_rooms"

pytestmark = pytest.mark.slow


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of all files, as the present folder: the runs name their data and model from there."""
    folder = tmp_path / "before"
    shutil.copytree(WRITTEN, folder)
    monkeypatch.chdir(folder)
    return folder


def with_adapter(adapter: Path) -> PeftModel:
    base = AutoModelForSequenceClassification.from_pretrained(WRITTEN / "base", num_labels=2)
    return PeftModel.from_pretrained(base, adapter).eval()


def changes(adapter: Path) -> dict[str, Tensor]:
    model = with_adapter(adapter)
    return {
        name: m.get_delta_weight("default") for name, m in layers_with(model, "default").items()
    }


@pytest.mark.parametrize("name", ["exact", "penalty", "pruned", "sora", "bottleneck"])
def test_an_adapter_computes_what_it_did(name: str) -> None:
    assert lora2.Lora2Config is not None
    expected = load_file(WRITTEN / "adapters" / "logits.safetensors")[name]
    with torch.no_grad():
        logits = with_adapter(WRITTEN / "adapters" / name)(
            input_ids=torch.arange(4, 28).view(3, 8), attention_mask=torch.ones(3, 8)
        ).logits
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


def test_a_finished_run_is_used_by_all_commands(here: Path, capsys) -> None:
    summary = json.loads((here / "finished" / "summary.json").read_text())
    assert command("evaluate", "finished") == 0
    assert f"{summary['last']['accuracy']:.4f}" in capsys.readouterr().out
    assert command("predict", "finished", "--text", "the doctor is here.") == 0
    assert command("inspect", "finished") == 0
    assert command("export", "finished", "--to", "lora", "--output", "lora") == 0
    assert command("combine", "finished", "finished", "--output", "sum") == 0


def test_an_interrupted_run_ends_as_it_would_have(here: Path) -> None:
    assert command("train", "--output_dir=interrupted", "--resume") == 0
    weights = "adapter/adapter_model.safetensors"
    kept = read_kept(here / "finished" / weights)
    assert sum(kept.values()) == 24
    assert read_kept(here / "interrupted" / weights) == kept
    resumed, whole = (changes(here / name / "adapter") for name in ("interrupted", "finished"))
    for name, change in whole.items():
        # The file of before holds what this one is computed from; both are rounded.
        torch.testing.assert_close(resumed[name], change, atol=1e-6, rtol=1e-4)


def test_a_record_is_found_by_its_description(tmp_path: Path) -> None:
    (path,) = WRITTEN.glob("agreement-lora2-*.json")
    shutil.copy(path, tmp_path)
    content = json.loads(path.read_text())
    record = RecordFolder(tmp_path).find(RunRecord.from_dict(content).description)
    assert record is not None
    assert record.finished
    assert f"{record.description.name}.json" == path.name
