"""Tokenizers that pad in front of texts: what is found of a row does not depend on its batch."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import XLNetConfig, XLNetForSequenceClassification

from command_line import lora2
from lora2.training.base_models.models import pads_behind
from unit.tiny_transformers import tiny_bert

TEXTS = ["the table is here", "a doctor", "the doctors have tables and a table", "here"]

OPTIONS = (
    "--k=2", "--init_r=2", "--target_r=2", "--max_length=32", "--learning_rate=1e-2",
    "--max_steps=24", "--head_learning_rate=0.1", "--per_device_train_batch_size=8",
    "--baseline=none",
)  # fmt: skip


def rows(objective: str, folder: Path) -> Path:
    file = folder / "mine.jsonl"
    with file.open("w") as lines:
        for number in range(32):
            words = TEXTS[number % 4].split()
            tags = ["B-thing" if word[0] in "td" and len(word) > 3 else "O" for word in words]
            of_text = {"text": " ".join(words), "label": len(words) > 2}
            row = of_text if objective == "classification" else {"tokens": words, "tags": tags}
            lines.write(json.dumps(row) + "\n")
    return file


COLUMNS = {
    "classification": ("--text_columns=text", "--label_column=label"),
    "token-classification": (),
}


@pytest.mark.parametrize("objective", COLUMNS)
def test_what_is_found_does_not_depend_on_the_batch(
    objective: str, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, run, file = tmp_path / "model", tmp_path / "run", rows(objective, tmp_path)
    shutil.copytree(tiny_model, model)
    config = model / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"padding_side": "left"}))
    command = ["train", f"--objective={objective}", f"--model={model}", f"--train_file={file}"]
    assert lora2(*command, f"--output_dir={run}", *OPTIONS, *COLUMNS[objective]) == 0
    found = []
    for size in (1, 64):
        capsys.readouterr()
        assert lora2("predict", run, "--file", file, f"--batch_size={size}") == 0
        found.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
    assert len(found[0]) == 32
    for alone, together in zip(*found, strict=True):
        assert alone.keys() == together.keys()
        for name, value in alone.items():
            if name == "probabilities":
                assert together[name] == pytest.approx(value, abs=2e-6)
            else:
                assert together[name] == value


def test_a_head_that_reads_the_last_place_is_padded_in_front() -> None:
    config = XLNetConfig(vocab_size=30, d_model=8, n_layer=1, n_head=2, d_inner=16)
    assert not pads_behind(XLNetForSequenceClassification(config))
    assert pads_behind(tiny_bert())
