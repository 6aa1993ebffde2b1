"""`lora2 export --rank` and `--size`: an adapter cut after training, in any form."""

import json

import pytest
from safetensors.torch import load_file

from command_line import lora2, refused, train

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lora_run(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "lora"
    assert train(tiny_model, folder, method="lora", k=4) == 0
    return folder


@pytest.mark.parametrize("form", ["lora", "merged", "gguf"])
def test_a_run_is_cut_before_any_form_is_written(form, finished_run, tmp_path, capsys):
    words = ("export", finished_run, f"--to={form}", "--rank=0.5", "--output", tmp_path / "out")
    if form == "gguf":
        assert "bert" in refused(capsys, *words)
        return
    assert lora2(*words) == 0
    said = capsys.readouterr().out
    assert "Kept 6 singular values of 12 matrices" in said
    assert "% of the change in all" in said
    # What the cut itself changes is not compared.
    assert "its logits differ from those of the adapter as it was cut by" in said
    assert ("padded to the largest rank (--compact avoids" in said) == (form == "lora")


def test_a_compact_lora_has_as_many_modules_as_its_file(finished_run, tmp_path, capsys):
    words = ("--compact", "--rank=0.5", "--output", tmp_path / "out")
    assert lora2("export", finished_run, *words) == 0
    ranks = [
        len(tensor)
        for name, tensor in load_file(tmp_path / "out" / "adapter_model.safetensors").items()
        if ".lora_A." in name
    ]
    said = capsys.readouterr().out
    assert f"LoRA of {len(ranks)} modules, ranks {min(ranks)} to {max(ranks)}, written" in said
    assert f"Left out: {12 - len(ranks)} modules that change nothing" in said


def test_a_lora_is_cut_to_a_share_of_its_size(lora_run, tmp_path, capsys):
    for size, folder in ((0.5, "half"), (0.25, "quarter")):
        words = ("--compact", f"--size={size}", "--output", tmp_path / folder)
        assert lora2("export", lora_run, *words) == 0
    numbers = {
        name: sum(
            tensor.numel()
            for key, tensor in load_file(tmp_path / name / "adapter_model.safetensors").items()
            if "lora_" in key
        )
        for name in ("half", "quarter")
    }
    whole = json.loads((lora_run / "summary.json").read_text())["final_parameters"]["adapter"]
    assert 0.25 * whole < numbers["half"] <= 0.5 * whole
    assert numbers["quarter"] <= 0.25 * whole


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rank=0"], "rank=0.0 must be a number above 0"),
        (["--size=nan"], "size=nan must be a number above 0"),
        (["--rank=1", "--size=1"], "not allowed with"),
    ],
    ids=str,
)
def test_a_cut_that_is_none_is_one_sentence(words, said, finished_run, tmp_path, capsys):
    assert said in refused(capsys, "export", finished_run, *words, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()
