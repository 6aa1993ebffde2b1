"""`lora2 train --objective token-classification`, and what other commands make of its run."""

import json

import pytest
import torch
from transformers import AutoModelForTokenClassification

from command_line import interrupt_at, lora2, refused, saved_weights

WORDS = ["the table is here", "a doctor is away", "the doctors have tables"]
NER = "--objective=token-classification"


def rows(path, count=32):
    with path.open("w") as file:
        for number in range(count):
            tokens = WORDS[number % 3].split()
            tags = ["B-thing" if token[0] in "td" and len(token) > 3 else "O" for token in tokens]
            file.write(json.dumps({"tokens": tokens, "tags": tags}) + "\n")
    return path


def options(file):
    usual = {"train_file": file, "num_train_epochs": 2, "per_device_train_batch_size": 8}
    return [f"--{name}={value}" for name, value in usual.items()]


SMALL = (
    "--k=2", "--init_r=4", "--target_r=2", "--tinit=1", "--tfinal=3", "--max_length=32",
    "--learning_rate=1e-2",
)  # fmt: skip


@pytest.mark.slow
def test_a_run_from_training_to_export(tiny_model, tmp_path, monkeypatch, capsys):
    file, run, other = rows(tmp_path / "mine.jsonl", 40), tmp_path / "run", tmp_path / "other"
    command = ["train", NER, f"--model={tiny_model}", *options(file), *SMALL, "--save_steps=1"]
    command.append("--save_strategy=steps")
    assert lora2(*command, f"--output_dir={run}") == 0
    last = json.loads((run / "summary.json").read_text())["last"]
    assert {"f1", "precision", "recall", "accuracy"} < last.keys()
    assert "token-classification" in (run / "adapter" / "README.md").read_text()

    with monkeypatch.context() as patch:
        interrupt_at(6, patch)
        assert lora2(*command, f"--output_dir={other}") == 130
    assert lora2("train", f"--output_dir={other}", "--resume") == 0
    ours, theirs = saved_weights(other), saved_weights(run)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)

    capsys.readouterr()
    assert lora2("evaluate", run) == 0
    shown = capsys.readouterr().out
    assert all(f"{last[name]:.4f}" in shown for name in ("f1", "accuracy"))
    assert lora2("evaluate", run, "--file", file) == 0
    capsys.readouterr()
    assert lora2("predict", run, "--text=The table, is here.") == 0
    (record,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert record["tokens"] == ["The", "table", ",", "is", "here", "."]
    for entity in record["entities"]:
        assert record["text"][entity["start"] : entity["end"]] == entity["text"]
    output = tmp_path / "tags.jsonl"
    assert lora2("predict", run, "--file", file, "--output", output, "--batch_size=3") == 0
    first = json.loads(output.read_text().splitlines()[0])
    assert list(first) == ["tokens", "tags", "predicted_tags", "entities"]
    assert len(first["predicted_tags"]) == len(first["tokens"])
    assert "lora2 predict" in refused(capsys, "generate", run, "--prompt=a")
    assert lora2("inspect", run) == 0
    assert lora2("export", run, "--output", tmp_path / "lora") == 0
    assert lora2("export", run, "--to=merged", "--output", tmp_path / "merged") == 0
    merged = AutoModelForTokenClassification.from_pretrained(tmp_path / "merged")
    assert merged.config.id2label == {0: "O", 1: "B-thing", 2: "I-thing"}


# Name: more options, what the sentence has.
REFUSED = {
    "a typo": (["--objective=token-clasification"], "token-classification"),
    "labels of texts": (["--kind=regression"], "kind=regression has no effect"),
    "columns of images": (["--image_column=a"], "image_column=a has no effect"),
    "prompts": (["--method=prompt"], "method: prompt tuning"),
    "GLUE": (["--data_dir=glue"], "data_dir=glue has no effect"),
    "packing": (["--packing=True"], "packing=True has no effect"),
    "a length without a word": (["--max_length=2"], "max_length: got 2"),
    "a length beyond the model's": (["--max_length=4000"], "max_length: got 4000"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_options_that_do_not_go_with_tags(case, tiny_model, tmp_path, capsys):
    more, said = REFUSED[case]
    run = tmp_path / "run"
    file = rows(tmp_path / "mine.jsonl", 4)
    command = [NER, f"--model={tiny_model}", f"--train_file={file}", f"--output_dir={run}"]
    assert said in refused(capsys, "train", *command, *more)
    assert not run.exists()
