"""export, combine and import on finished runs."""

import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from command_line import lora2, refused, saved_weights, small_options, train
from lora2 import Lora2Config
from lora2.training.run_loading import load_saved_run
from unit.method_runs import summary_of
from unit.models import difference
from unit.tiny_transformers import tiny_bert

pytestmark = pytest.mark.slow

TEXT = "The tables near the doctor are here."


@pytest.fixture(scope="session")
def lora_run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of PEFT's LoRA; do not write into it."""
    folder = tmp_path_factory.mktemp("runs") / "lora"
    options = small_options(method="lora", lora_alpha=16, learning_rate=1e-2)
    arguments = (f"--model={tiny_model}", f"--output_dir={folder}", *options)
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


def test_a_lora_of_a_tagger_is_imported_with_its_head(tiny_model, tmp_path):
    tagger = AutoModelForTokenClassification.from_pretrained(tiny_model, num_labels=3)
    lora = get_peft_model(tagger, LoraConfig(r=2, task_type="TOKEN_CLS", init_lora_weights=False))
    lora.save_pretrained(tmp_path / "lora")
    assert lora2("import", tmp_path / "lora", "--output", tmp_path / "lora2") == 0
    base = AutoModelForTokenClassification.from_pretrained(tiny_model, num_labels=3)
    imported = PeftModel.from_pretrained(base, tmp_path / "lora2")
    assert difference(logits(imported, tiny_model), logits(lora, tiny_model)) < 1e-5


def test_an_adapter_for_another_task_is_named(tiny_model, tmp_path, capsys):
    encoder = get_peft_model(
        AutoModel.from_pretrained(tiny_model), LoraConfig(task_type="FEATURE_EXTRACTION")
    )
    encoder.save_pretrained(tmp_path / "lora")
    said = refused(capsys, "import", tmp_path / "lora", "--output", tmp_path / "lora2")
    assert "is for FEATURE_EXTRACTION" in said
    assert "import_lora" in said


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
        "broken": ([tmp_path / "broken", "--output", tmp_path / "x"], "was cut short"),
    }[case]
    assert named in refused(capsys, "import", *arguments)


# combine


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--weights", "1"], "one for each"),
        (["--rank", "0"], "rank=0"),
        (["--weights", "nan", "1"], "finite"),
        (["--weights", "1", "-1"], "--heads first"),
        (["--weights", "0", "0"], "--heads first"),
        (["--weights", "1e308", "1e308"], "too large"),
        (["--heads", "mean"], "--heads"),
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


@pytest.fixture(scope="module")
def other_run(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "other"
    assert train(tiny_model, folder, seed=1) == 0
    return folder


def head_of(run):
    return {name: tensor for name, tensor in saved_weights(run).items() if ".lora2_" not in name}


@pytest.mark.parametrize(("heads", "shares"), [("average", (0.25, 0.75)), ("first", (1.0, 0.0))])
def test_combined_runs_are_a_run_with_their_head(heads, shares, finished_run, other_run, tmp_path):
    output = tmp_path / "sum"
    weights = ["--weights", "0.5", "1.5", "--heads", heads]
    assert lora2("combine", finished_run, other_run, *weights, "--output", output) == 0
    parts = [head_of(run) for run in (finished_run, other_run)]
    combined = head_of(output)
    assert set(combined) == set(parts[0])
    for name, tensor in combined.items():
        expected = sum(share * part[name] for share, part in zip(shares, parts, strict=True))
        torch.testing.assert_close(tensor, expected)


def test_modules_trained_whole_are_not_of_the_head_and_the_baseline_trains_them(
    tiny_model, tmp_path
):
    whole, run, output = 2 * 16, tmp_path / "run", tmp_path / "sum"
    options = ["--modules_to_save", "token_type_embeddings"]
    assert train(tiny_model, run, *options, baseline="head") == 0
    assert lora2("combine", run, run, "--output", output) == 0
    head = summary_of(run)["final_parameters"]["head"]
    assert summary_of(run)["baseline"]["parameters"] == head + whole
    held = sum(tensor.numel() for tensor in saved_weights(output).values())
    assert summary_of(output)["final_parameters"] == {"adapter": held - head, "head": head}


def test_commands_take_a_combined_run(finished_run, other_run, tmp_path, capsys):
    output = tmp_path / "sum"
    assert lora2("combine", finished_run, other_run, "--output", output) == 0
    assert lora2("evaluate", output) == 0
    assert lora2("predict", output, "--text", "the table is here") == 0
    assert lora2("inspect", output) == 0
    for form in ("lora", "merged"):
        assert lora2("export", output, "--to", form, "--output", tmp_path / form) == 0
    assert lora2("combine", output, finished_run, "--output", tmp_path / "again") == 0


LABELS = ("acceptable", "unacceptable")
OTHER_TASKS = {
    "labels": ("text,label", "the table is here,{}", ("yes", "no"), "are no, yes;"),
    "order": ("text,label", "the table is here,{}", LABELS, "the same labels in the same order"),
    "pairs": ("sentence1,sentence2,label", "here,away,{}", LABELS, "classes of pairs of texts"),
    "numbers": ("text,label", "the table is here,{}", ("1.5", "2"), "learnt numbers"),
}


@pytest.mark.parametrize("case", OTHER_TASKS)
def test_combine_refuses_runs_of_another_task(case, finished_run, tiny_model, tmp_path, capsys):
    header, row, labels, expected = OTHER_TASKS[case]
    data, run = tmp_path / "data.csv", tmp_path / "run"
    data.write_text("\n".join([header, *(row.format(label) for label in labels * 8)]))
    own = [each for each in small_options() if "sentences" not in each]
    words = [f"--train_file={data}", f"--model={tiny_model}", f"--output_dir={run}"]
    kind = ["--kind=regression"] if case == "numbers" else []
    assert lora2("train", *words, *own, *kind, "--per_device_train_batch_size=2") == 0
    said = refused(capsys, "combine", finished_run, run, "--output", tmp_path / "sum")
    assert expected in said
    assert str(run) in said
    assert str(finished_run) in said
    assert not (tmp_path / "sum").exists()


def test_a_base_model_may_be_named_in_several_ways(finished_run, tiny_model, tmp_path):
    other, link = tmp_path / "other", tmp_path / "link"
    shutil.copytree(finished_run, other)
    link.symlink_to(tiny_model)
    config = other / "config.yaml"
    config.write_text(config.read_text().replace(str(tiny_model), str(link)))
    assert lora2("combine", finished_run, other, "--output", tmp_path / "sum") == 0


def test_mean_of_equal_heads_is_that_head_in_half_precision_too():
    config = Lora2Config(task_type="SEQ_CLS", modules_to_save=["classifier"])
    model = get_peft_model(tiny_bert(), config)
    model.add_adapter("other", model.peft_config["default"])
    model = model.to(torch.bfloat16)
    heads = model.base_model.model.classifier.modules_to_save
    heads["other"].load_state_dict(heads["default"].state_dict())
    names = ["default", "other"]
    model.base_model.add_weighted_adapter(names, [0.1, 0.3], "sum", heads="average")
    torch.testing.assert_close(heads["sum"].weight, heads["default"].weight, rtol=0, atol=0)
