"""export, combine and import on finished runs."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from command_line import lora2, refused, small_options
from lora2.training.saved_run import load_saved_run
from unit.models import difference

TEXT = "The tables near the doctor are here."


@pytest.fixture(scope="session")
def lora_run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of PEFT's LoRA; do not write into it."""
    folder = tmp_path_factory.mktemp("runs") / "lora"
    options = small_options(target_r=4, lora_alpha=16, learning_rate=1e-2)
    arguments = ("--method=lora", f"--model={tiny_model}", f"--output_dir={folder}", *options)
    assert lora2("train", *arguments) == 0
    return folder


@torch.no_grad()
def logits(model, folder: Path) -> torch.Tensor:
    return model.eval()(**AutoTokenizer.from_pretrained(folder)(TEXT, return_tensors="pt")).logits


def of_run(run: Path) -> torch.Tensor:
    return logits(load_saved_run(run).model, run / "adapter")


def base_of(run: Path, tiny_model: Path) -> AutoModelForSequenceClassification:
    return AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=2)


@pytest.mark.parametrize("compact", [[], ["--compact"]], ids=["padded", "compact"])
def test_exported_lora_stands_beside_its_base_model(
    compact, finished_run, tiny_model, tmp_path, capsys
):
    output = tmp_path / "lora"
    assert lora2("export", finished_run, "--to=lora", "--output", output, *compact) == 0
    said = capsys.readouterr().out
    assert "written to" in said
    assert "of the largest" in said
    assert "vLLM 0.33: will serve it" in said
    assert "SGLang 0.5.23: no, modules_to_save" in said
    exported = PeftModel.from_pretrained(base_of(finished_run, tiny_model), output)
    assert difference(logits(exported, output), of_run(finished_run)) < 1e-5


def test_merged_model_stands_alone(finished_run, tmp_path):
    output = tmp_path / "merged"
    assert lora2("export", finished_run, "--to=merged", "--output", output) == 0
    merged = AutoModelForSequenceClassification.from_pretrained(output)
    assert difference(logits(merged, output), of_run(finished_run)) < 1e-5
    assert merged.config.id2label == {0: "unacceptable", 1: "acceptable"}
    assert not [name for name, _ in merged.named_parameters() if "lora2" in name]


@pytest.mark.parametrize("form", ["lora", "merged"])
def test_export_that_does_not_agree_is_not_kept(form, finished_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(f"lora2.exchange.{form}.tolerance_of", lambda *arguments: -1.0)
    output = tmp_path / "exported"
    said = refused(capsys, "export", finished_run, f"--to={form}", "--output", output)
    assert "not kept" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--to=merged", "--compact"], "compact"),
        (["--to=gguf"], "not for bert"),
        (["--to=onnx"], "onnx"),
    ],
)
def test_export_refuses(options, named, finished_run, tmp_path, capsys):
    output = tmp_path / "exported"
    assert named in refused(capsys, "export", finished_run, *options, "--output", output)
    assert not output.exists()


def test_export_refuses_a_folder_that_exists(finished_run, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for form in ("lora", "merged"):
        said = refused(capsys, "export", finished_run, f"--to={form}", "--output", tmp_path)
        assert "exists already" in said


def test_a_lora_needs_no_export(lora_run, tmp_path, capsys):
    said = refused(capsys, "export", lora_run, "--output", tmp_path / "lora")
    assert "its adapter is one already" in said


# import


def test_imported_lora_computes_the_same(lora_run, tiny_model, tmp_path, capsys):
    output = tmp_path / "lora2"
    assert lora2("import", lora_run, "--output", output, "--target_r=1") == 0
    assert "k = 2" in capsys.readouterr().out
    imported = PeftModel.from_pretrained(base_of(lora_run, tiny_model), output)
    assert imported.peft_config["default"].target_r == 1
    assert difference(logits(imported, lora_run / "adapter"), of_run(lora_run)) < 1e-5


@pytest.mark.parametrize("case", ["exists", "nothing", "lora2", "broken"])
def test_import_refuses(case, finished_run, tmp_path, capsys):
    (tmp_path / "there").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "adapter_config.json").write_text('{"peft_type": "LO')
    (tmp_path / "broken" / "adapter_model.safetensors").touch()
    arguments, named = {
        "exists": ([finished_run, "--output", tmp_path], "exists already"),
        "nothing": ([tmp_path / "there", "--output", tmp_path / "x"], "adapter_config.json"),
        "lora2": ([finished_run, "--output", tmp_path / "x"], "LORA2"),
        "broken": ([tmp_path / "broken", "--output", tmp_path / "x"], "no adapter that PEFT knows"),
    }[case]
    assert named in refused(capsys, "import", *arguments)


# combine


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--weights", "1"], "one for each"),
        (["--rank", "0"], "rank=0"),
        (["--weights", "nan", "1"], "finite"),
        ([], "their own 'classifier'"),
    ],
)
def test_combine_refuses(options, named, finished_run, tmp_path, capsys):
    output = tmp_path / "sum"
    arguments = [finished_run, finished_run, *options, "--output", output]
    assert named in refused(capsys, "combine", *arguments)
    assert not output.exists()


def test_combine_refuses_another_method(finished_run, lora_run, tmp_path, capsys):
    for runs in ((finished_run, lora_run), (lora_run, finished_run), (finished_run, tmp_path)):
        said = refused(capsys, "combine", *runs, "--output", tmp_path / "sum")
        assert "lora2" in said
