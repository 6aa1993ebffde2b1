"""export, import and combine on runs of a language model."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from command_line import lora2, refused
from language_model import train_texts
from lora2.training.run_loading import load_saved_run
from unit.models import difference

pytestmark = pytest.mark.slow

TOKENS = torch.arange(20, 60).view(2, 20)


@pytest.fixture(scope="module")
def runs(language_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three runs of different seeds; do not write into them."""
    folders = [tmp_path_factory.mktemp("runs") / str(seed) for seed in range(3)]
    for seed, folder in enumerate(folders):
        assert train_texts(language_model, folder, seed=seed, learning_rate=1e-2) == 0
    return folders


@pytest.fixture(scope="module")
def lora_run(language_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "lora"
    assert (
        train_texts(language_model, folder, method="lora", learning_rate=1e-2, target_r=None) == 0
    )
    return folder


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model.eval()(TOKENS).logits


def on_base(base: Path, adapter: Path) -> PeftModel:
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)


@pytest.mark.parametrize("compact", [[], ["--compact"]], ids=["padded", "compact"])
def test_exported_lora_writes_what_the_run_does(compact, runs, language_model, tmp_path, capsys):
    output = tmp_path / "lora"
    assert lora2("export", runs[0], "--output", output, *compact) == 0
    said = capsys.readouterr().out
    mixed = ("no", "modules of several ranks") if compact else ("will serve it",) * 2
    assert "vLLM 0.33: will serve it" in said
    for engine in ("SGLang 0.5.23", "llama.cpp"):
        (line,) = (line for line in said.splitlines() if line.startswith(f"{engine}:"))
        assert all(word in line for word in mixed)
    expected = logits(load_saved_run(runs[0]).model)
    assert difference(logits(on_base(language_model, output)), expected) < 1e-5


def test_gguf_is_written_and_read_back(runs, tmp_path, capsys):
    output = tmp_path / "adapter.gguf"
    assert lora2("export", runs[0], "--to=gguf", "--output", output) == 0
    assert output.is_file()
    assert "of the largest" in capsys.readouterr().out
    assert "exists already" in refused(capsys, "export", runs[0], "--to=gguf", "--output", output)


def test_combined_adapter_is_the_weighted_sum(runs, language_model, tmp_path, capsys):
    output, weights = tmp_path / "sum", (0.5, -1.0, 2.0)
    assert lora2("combine", *runs, "--weights", *weights, "--output", output) == 0
    assert "left out: 0.0e+00" in capsys.readouterr().out
    parts = [deltas(load_saved_run(run).model) for run in runs]
    total = deltas(on_base(language_model, output / "adapter"))
    assert total.keys() == parts[0].keys()
    for name, change in total.items():
        expected = sum(w * part[name] for w, part in zip(weights, parts, strict=True))
        assert difference(change, expected) < 1e-6, name


def test_combination_of_a_lower_rank_says_what_it_left_out(runs, language_model, tmp_path, capsys):
    output = tmp_path / "sum"
    assert lora2("combine", *runs, "--rank=1", "--output", output) == 0
    said = capsys.readouterr().out
    parts = [deltas(load_saved_run(run).model) for run in runs]
    sums = {name: sum(part[name] for part in parts) for name in parts[0]}
    total = deltas(on_base(language_model, output / "adapter"))
    missing = sum(float((total[n] - s).square().sum()) for n, s in sums.items()) ** 0.5
    whole = sum(float(s.square().sum()) for s in sums.values()) ** 0.5
    assert f"left out: {missing / whole:.1e}" in said


def test_weights_of_runs_without_heads_may_cancel(runs, tmp_path, capsys):
    output = tmp_path / "difference"
    words = ["combine", *runs[:2], "--weights", "1", "-1", "--output", output]
    assert lora2(*words) == 0
    assert lora2("generate", output, "--prompt", "two kilos", "--max_new_tokens=2") == 0
    assert lora2("evaluate", output) == 0
    assert lora2("inspect", output) == 0
    assert "has none" in refused(capsys, *words[:-1], tmp_path / "other", "--heads", "first")


def test_imported_lora_writes_what_the_run_does(lora_run, language_model, tmp_path):
    output = tmp_path / "lora2"
    assert lora2("import", lora_run, "--output", output) == 0
    expected = logits(load_saved_run(lora_run).model)
    assert difference(logits(on_base(language_model, output)), expected) < 1e-6


def deltas(model: PeftModel) -> dict[str, torch.Tensor]:
    return {
        name: module.get_delta_weight("default").detach()
        for name, module in model.named_modules()
        if hasattr(module, "lora2_lambda")
    }
