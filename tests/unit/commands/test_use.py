"""evaluate, predict and inspect on a finished run."""

import json
import shutil

import pytest

from command_line import lora2, refused, small_options


def last_accuracy(run):
    return json.loads((run / "summary.json").read_text())["last"]["accuracy"]


def test_evaluate_gives_the_last_metrics_of_the_run(finished_run, capsys):
    assert lora2("evaluate", finished_run) == 0
    assert f"{last_accuracy(finished_run):.4f}" in capsys.readouterr().out


def test_evaluate_takes_another_labelled_file(finished_run, tmp_path, capsys):
    file = tmp_path / "more.csv"
    file.write_text("text,label\nthe table is here,acceptable\nthe table are here,unacceptable\n")
    assert lora2("evaluate", finished_run, "--file", file) == 0
    assert "more.csv, 2 rows" in capsys.readouterr().out


def test_evaluate_refuses_rows_that_the_run_was_not_trained_with(tiny_model, tmp_path, capsys):
    def write(*more):
        lines = [f"the cat {number},{'good' if number % 2 else 'bad'}" for number in range(32)]
        file.write_text("\n".join(["text,label", *lines, *more]) + "\n")

    file, folder = tmp_path / "mine.csv", tmp_path / "run"
    write()
    small = [option for option in small_options(save_strategy="no") if "sentences" not in option]
    places = (f"--train_file={file}", f"--model={tiny_model}", f"--output_dir={folder}")
    assert lora2("train", *places, *small) == 0
    # A class of that name is the first one, so that all others would have other numbers.
    write("the dog,awful", "the dogs,awful")
    said = refused(capsys, "evaluate", folder)
    assert "run: the rows of validation are not those that" in said
    assert lora2("evaluate", folder, "--file", save_rows(tmp_path)) == 0
    write()
    assert lora2("evaluate", folder) == 0
    assert f"{last_accuracy(folder):.4f}" in capsys.readouterr().out


def save_rows(folder):
    file = folder / "labelled.csv"
    file.write_text("text,label\nthe cat,good\nthe dog,bad\n")
    return file


def test_evaluate_refuses_a_label_that_the_run_does_not_know(finished_run, tmp_path, capsys):
    file = tmp_path / "more.csv"
    file.write_text("text,label\nthe table is here,good\n")
    assert "'good'" in refused(capsys, "evaluate", finished_run, "--file", file)


def test_predict_prints_the_label_of_a_text(finished_run, capsys):
    assert lora2("predict", finished_run, "--text", "The tables are here.") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["label"] in ("acceptable", "unacceptable")
    assert sum(record["probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_predict_writes_one_line_per_row_of_a_file(finished_run, tmp_path, capsys):
    file, output = tmp_path / "texts.csv", tmp_path / "labels.jsonl"
    texts = ["the table is here", "a doctor", "the doctors near the tables have that"]
    file.write_text("text\n" + "\n".join(texts) + "\n")
    assert lora2("predict", finished_run, "--file", file, "--output", output) == 0
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert [record["text"] for record in records] == texts
    # Padding next to a longer text does not change what a text is given.
    capsys.readouterr()
    lora2("predict", finished_run, "--text", texts[0])
    alone = json.loads(capsys.readouterr().out)
    assert alone["probabilities"] == pytest.approx(records[0]["probabilities"], abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "--text or --file"),
        (["--text=a", "--file=b.csv"], "not both"),
        (["--text=a", "--text_pair=b"], "text_pair"),
        (["--file=nowhere.csv"], "nowhere.csv"),
        (["--text=a", "--output=no/such/folder/x.jsonl"], "no/such/folder"),
    ],
)
def test_predict_refuses(arguments, named, finished_run, capsys):
    assert named in refused(capsys, "predict", finished_run, *arguments)


def test_inspect_prints_and_draws(finished_run, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    assert lora2("inspect", run) == 0
    text = capsys.readouterr().out
    for name in ("query", "key", "value", "attention.output.dense", "intermediate.dense"):
        assert name.split(".")[0] in text
    for name in ("kept_singular_values", "budget", "loss"):
        image = (run / "figures" / f"{name}.png").read_bytes()
        assert image.startswith(b"\x89PNG")
        assert f"{name}.png" in text


def test_inspect_shows_an_unfinished_run(finished_run, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    shutil.rmtree(run / "adapter")
    assert lora2("inspect", run) == 0
    assert "not finished" in capsys.readouterr().out
