"""Where predict and generate write, in which format, and what they never overwrite."""

import csv
import json
import os
import shutil
import threading

import pyarrow.parquet
import pytest

from command_line import lora2, refused
from language_model import train_texts
from lora2.training import run_loading

pytestmark = pytest.mark.slow

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
    refusal = refused(
        capsys, "predict", finished_run, "--file", file, "--output", output, *overwrite
    )
    assert "the file that is read" in refusal
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
    refusal = refused(
        capsys, "predict", finished_run, "--file", file, "--output", tmp_path / output
    )
    assert words in refusal
    assert sorted(tmp_path.iterdir()) == [file]


def test_a_text_that_tsv_has_no_form_for_is_refused(finished_run, tmp_path, capsys):
    file, output = tmp_path / "texts.csv", tmp_path / "labels.tsv"
    file.write_text('text\n"two\nlines"\n')
    refusal = refused(capsys, "predict", finished_run, "--file", file, "--output", output)
    assert "row 1" in refusal
    assert not output.exists()


@pytest.fixture
def no_model(monkeypatch):
    """Loading a model fails: what is refused must be refused before."""
    for command in ("predict", "generate", "export"):
        monkeypatch.setattr(f"lora2.commands.{command}.load_saved_run", None)


FAULTS_OF_ROWS = {
    "tsv": ([{"text": "a\tb"}], "labels.tsv", "row 1"),
    "parquet": ([{"text": "a", "x": 1}, {"text": "b", "x": "y"}], "labels.parquet", "column 'x'"),
    "exists": ([{"text": "a"}], "rows.jsonl", "the file that is read"),
}


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("fault", FAULTS_OF_ROWS)
def test_what_cannot_be_written_is_refused_before_the_work(fault, finished_run, tmp_path, capsys):
    rows, name, words = FAULTS_OF_ROWS[fault]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    output = tmp_path / name
    refusal = refused(capsys, "predict", finished_run, "--file", file, "--output", output)
    assert words in refusal


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("form", ["lora", "merged", "gguf"])
def test_an_export_that_exists_is_refused_before_the_work(form, finished_run, file, capsys):
    refusal = refused(capsys, "export", finished_run, "--to", form, "--output", file)
    assert "exists already" in refusal


def test_files_of_the_run_and_its_model_are_never_overwritten(
    finished_run, tiny_model, tmp_path, capsys
):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    for part in (run / "summary.json", run / "adapter" / "config.json", tiny_model / "config.json"):
        before = part.read_bytes()
        words = ["predict", run, "--text", "a", "--output", part, "--overwrite"]
        assert "that is read" in refused(capsys, *words)
        assert part.read_bytes() == before
    words = ["predict", run, "--text", "a", "--output", run / "labels.jsonl"]
    assert lora2(*words) == lora2(*words, "--overwrite") == 0


def test_a_column_that_has_the_name_of_a_class_is_kept(finished_run, tmp_path):
    file, output = tmp_path / "texts.csv", tmp_path / "labels.csv"
    file.write_text("text,probabilities_acceptable\nthe table is here,mine\n")
    assert lora2("predict", finished_run, "--file", file, "--output", output) == 0
    (record,) = read(output)
    assert record["probabilities_acceptable"] == "mine"
    assert 0 < float(record["predicted_probabilities_acceptable"]) < 1


def test_columns_of_objects_are_kept_in_csv(finished_run, tmp_path):
    file, output = tmp_path / "texts.jsonl", tmp_path / "labels.csv"
    rows = [{"text": "a", "meta": {"x": 1}}, {"text": "b"}, {"text": "c", "meta": {"y": [2]}}]
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert lora2("predict", finished_run, "--file", file, "--output", output) == 0
    assert [row["meta"] for row in read(output)] == ['{"x": 1}', "", '{"y": [2]}']


def test_standard_output_has_results_alone(finished_run, monkeypatch, capsys):
    original = run_loading.load_adapter

    def talkative(*arguments, **named):
        print("a remark of a library")
        return original(*arguments, **named)

    monkeypatch.setattr(run_loading, "load_adapter", talkative)
    assert lora2("predict", finished_run, "--text", "a") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["text"] == "a"
    assert "a remark of a library" in captured.err


@pytest.fixture(scope="module")
def writing_run(language_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "texts"
    assert train_texts(language_model, folder) == 0
    return folder


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".json", ".parquet", ""])
def test_generate_keeps_the_other_columns_in_every_format(ending, writing_run, tmp_path):
    file, output = tmp_path / "prompts.csv", tmp_path / f"answers{ending}"
    file.write_text("id,prompt,note\n7,two kilos,\n8,three,x\n")
    words = ["--max_new_tokens=2", "--file", file, "--output", output]
    assert lora2("generate", writing_run, *words) == 0
    records = read(output)
    assert [list(row) for row in records] == [["id", "prompt", "note", "completion"]] * 2
    assert [(row["id"], row["prompt"]) for row in records] == [("7", "two kilos"), ("8", "three")]


def test_line_breaks_that_were_written_become_blanks_in_tsv(
    writing_run, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("lora2.commands.generate.generate", lambda *_, **__: iter(["a\n\tb", "c"]))
    file, output = tmp_path / "prompts.csv", tmp_path / "answers.tsv"
    file.write_text("prompt\none\ntwo\n")
    assert lora2("generate", writing_run, "--file", file, "--output", output) == 0
    assert [row["completion"] for row in read(output)] == ["a  b", "c"]
    assert "1 completions have tabs or line breaks" in capsys.readouterr().err


def test_messages_that_the_template_refuses_are_named_by_their_row(
    language_model, writing_run, tmp_path, capsys
):
    run, file = tmp_path / "run", tmp_path / "prompts.jsonl"
    shutil.copytree(writing_run, run)
    template = run / "adapter" / "chat_template.jinja"
    refusal = "{% if messages[0].role == 'x' %}{{ raise_exception('no role x') }}{% endif %}"
    template.write_text(refusal + template.read_text())
    rows = [{"prompt": [{"role": role, "content": "a"}]} for role in ("user", "x")]
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    refusal = refused(capsys, "generate", run, "--file", file)
    assert "row 2" in refusal
    assert "no role x" in refusal


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--text=a", "--output=-"], "leave --output out"),
        (["--text=a", "--overwrite"], "overwrite"),
        (["--file=texts.csv", "--text_pair=b"], "text_pair"),
    ],
)
def test_predict_refuses_options_without_effect(options, word, finished_run, capsys):
    assert word in refused(capsys, "predict", finished_run, *options)
