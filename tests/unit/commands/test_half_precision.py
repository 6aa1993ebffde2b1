"""`--dtype bfloat16`: the frozen weights are in it, and whatever is trained is not."""

import json
from pathlib import Path

import pytest
import torch

from command_line import lora2, refused, saved_weights

OPTIONS = (
    "--kind=regression", "--text_columns=text", "--label_column=label", "--dtype=bfloat16",
    "--max_length=16", "--learning_rate=1e-2", "--max_steps=6",
    "--per_device_train_batch_size=8", "--baseline=none",
)  # fmt: skip
# The compact form of a pruned adapter computes the same to the rounding of bfloat16 alone.
UNPRUNED = ("--k=2", "--init_r=2", "--target_r=2")
CASES = {
    "head": (),
    "lora": (),
    "lora2": UNPRUNED,
    "lora2 and LayerNorm": (*UNPRUNED, "--modules_to_save=LayerNorm"),
    "lora2 and an embedding": (*UNPRUNED, "--modules_to_save=word_embeddings"),
    "bottleneck": (),
    "prompt": ("--virtual_tokens=4",),
}


def rows(folder: Path) -> Path:
    file = folder / "mine.jsonl"
    texts = ("the table is here", "a doctor", "the doctors have tables", "here")
    with file.open("w") as lines:
        for number in range(32):
            lines.write(json.dumps({"text": texts[number % 4], "label": 3 + number % 4 / 4}) + "\n")
    return file


@pytest.mark.parametrize("case", CASES)
def test_what_is_trained_is_in_float32_and_scores_as_in_training(
    case: str, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, file = tmp_path / "run", rows(tmp_path)
    start = ("train", f"--method={case.partition(' ')[0]}", f"--model={tiny_model}")
    assert lora2(*start, f"--train_file={file}", f"--output_dir={run}", *OPTIONS, *CASES[case]) == 0
    assert {tensor.dtype for tensor in saved_weights(run).values()} == {torch.float32}
    last = json.loads((run / "summary.json").read_text())["last"]
    # A loss in bfloat16 would have three digits.
    assert last["validation_loss"] != float(torch.tensor(last["validation_loss"]).bfloat16())
    capsys.readouterr()
    assert lora2("evaluate", run) == 0
    assert f"{last['pearson']:.4f}" in capsys.readouterr().out


@pytest.mark.parametrize("whole", ["LayerNorm", "word_embeddings"])
@pytest.mark.parametrize("to", ["merged", "lora"])
def test_a_run_in_half_precision_is_exported(
    to: str, whole: str, tiny_model: Path, tmp_path: Path
) -> None:
    run, file = tmp_path / "run", rows(tmp_path)
    start = ("train", f"--model={tiny_model}", f"--train_file={file}")
    assert lora2(*start, f"--output_dir={run}", *OPTIONS, f"--modules_to_save={whole}") == 0
    assert lora2("export", run, f"--to={to}", f"--output={tmp_path / to}") == 0


@pytest.mark.parametrize(
    ("method", "name"), [("full", "bert.embeddings.word_embeddings.weight"), ("bitfit", "bias")]
)
def test_weights_of_the_model_are_not_trained_in_half_precision(
    method: str, name: str, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, file = tmp_path / "run", rows(tmp_path)
    start = ("train", f"--method={method}", f"--model={tiny_model}", f"--train_file={file}")
    said = refused(capsys, *start, f"--output_dir={run}", *OPTIONS)
    assert said.startswith("lora2: dtype=bfloat16: ")
    assert f"{name} in it" in said
    assert not run.exists()
