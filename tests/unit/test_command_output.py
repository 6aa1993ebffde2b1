"""Where predict and generate write, in which format, and what they never overwrite."""

import csv
import json
import os
import threading

import pyarrow.parquet
import pytest

from command_line import lora2, refused

TEXTS = ("the table is here", "a doctor, away")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "texts.csv"
    with path.open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerows([("id", "text", "note"), (7, TEXTS[0], ""), (8, TEXTS[1], "x")])
    return path


def read(path):
    if path.suffix == ".csv":
        with path.open(newline="") as opened:
            return list(csv.DictReader(opened))
    if path.suffix == ".tsv":
        names, *rows = (line.split("\t") for line in path.read_text().splitlines())
        return [dict(zip(names, row, strict=True)) for row in rows]
    if path.suffix == ".parquet":
        return pyarrow.parquet.read_table(path).to_pylist()
    text = path.read_text()
    return json.loads(text) if path.suffix == ".json" else list(map(json.loads, text.splitlines()))


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".json", ".parquet", ""])
def test_predict_keeps_the_other_columns_in_every_format(ending, file, finished_run, tmp_path):
    output = tmp_path / f"labels{ending}"
    assert lora2("predict", finished_run, "--file", file, "--output", output) == 0
    records = read(output)
    assert [(row["id"], row["text"]) for row in records] == [("7", TEXTS[0]), ("8", TEXTS[1])]
    assert {row["label"] for row in records} <= {"acceptable", "unacceptable"}
    flat = ending in (".csv", ".tsv")
    assert list(records[0])[:4] == ["id", "text", "note", "label"]
    assert list(records[0])[4:] == (
        ["probabilities_unacceptable", "probabilities_acceptable"] if flat else ["probabilities"]
    )


def test_predict_reads_an_array_of_objects(finished_run, tmp_path, capsys):
    file = tmp_path / "texts.json"
    file.write_text(json.dumps([{"id": 1, "text": text} for text in TEXTS], indent=1))
    assert lora2("predict", finished_run, "--file", file) == 0
    records = list(map(json.loads, capsys.readouterr().out.splitlines()))
    assert [row["text"] for row in records] == list(TEXTS)


def test_a_column_that_has_the_name_of_the_result_is_kept(finished_run, tmp_path, capsys):
    file = tmp_path / "texts.csv"
    file.write_text("text,label\nthe table is here,acceptable\n")
    assert lora2("predict", finished_run, "--file", file) == 0
    (record,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert list(record) == ["text", "label", "predicted_label", "probabilities"]
    file.write_text("text,label,predicted_label\na,b,c\n")
    assert "'predicted_label'" in refused(capsys, "predict", finished_run, "--file", file)


def _same(file):
    return file


def _linked(file):
    link = file.with_name("link.csv")
    link.symlink_to(file)
    return link


def _hard_linked(file):
    link = file.with_name("hard.csv")
    os.link(file, link)
    return link


@pytest.mark.parametrize("name", [_same, _linked, _hard_linked])
@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]], ids=["", "overwrite"])
def test_the_input_is_never_overwritten(name, overwrite, file, finished_run, capsys):
    output, before = name(file), file.read_bytes()
    told = refused(capsys, "predict", finished_run, "--file", file, "--output", output, *overwrite)
    assert "the file that is read" in told
    assert file.read_bytes() == before


def test_an_existing_file_is_overwritten_on_request_alone(file, finished_run, tmp_path, capsys):
    output = tmp_path / "labels.jsonl"
    output.write_text("precious")
    words = ["predict", finished_run, "--file", file, "--output", output]
    assert "--overwrite" in refused(capsys, *words)
    assert output.read_text() == "precious"
    assert lora2(*words, "--overwrite") == 0
    assert len(read(output)) == 2


def test_a_link_stays_a_link(file, finished_run, tmp_path):
    target, link = tmp_path / "elsewhere.jsonl", tmp_path / "labels.jsonl"
    link.symlink_to(target)
    assert lora2("predict", finished_run, "--file", file, "--output", link) == 0
    assert link.is_symlink()
    assert len(read(target)) == 2


def test_a_named_pipe_is_written_to(file, finished_run, tmp_path):
    pipe = tmp_path / "pipe.jsonl"
    os.mkfifo(pipe)
    found = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_text()))
    reader.start()
    assert lora2("predict", finished_run, "--file", file, "--output", pipe) == 0
    reader.join(timeout=10)
    assert len(found[0].splitlines()) == 2
    assert pipe.is_fifo()


def test_a_device_stays_a_device(file, finished_run):
    assert lora2("predict", finished_run, "--file", file, "--output", "/dev/null") == 0
    assert not os.path.isfile("/dev/null")


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (".", "is a folder"),
        ("labels.xlsx", "'.xlsx'"),
        ("texts.csv/labels.csv", "is a file"),
        ("none/labels.csv", "does not exist"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused(
    output, words, file, finished_run, tmp_path, capsys
):
    told = refused(capsys, "predict", finished_run, "--file", file, "--output", tmp_path / output)
    assert words in told
    assert sorted(tmp_path.iterdir()) == [file]


def test_a_text_that_tsv_has_no_form_for_is_refused(finished_run, tmp_path, capsys):
    file, output = tmp_path / "texts.csv", tmp_path / "labels.tsv"
    file.write_text('text\n"two\nlines"\n')
    told = refused(capsys, "predict", finished_run, "--file", file, "--output", output)
    assert "row 1" in told
    assert not output.exists()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--text=a", "--overwrite"], "overwrite"),
        (["--file=texts.csv", "--text_pair=b"], "text_pair"),
    ],
)
def test_predict_refuses_options_without_effect(options, word, finished_run, capsys):
    assert word in refused(capsys, "predict", finished_run, *options)
