"""The user's own data: four file types, and one clear sentence for each way it can be wrong."""

import json
import random
from pathlib import Path

import pytest

from lora2.data.loading.classification import load_task
from lora2.data.own.labelled import load_labelled, texts_of
from lora2.data.tables.files import read_table
from lora2.errors import UserError

RECORDS = [
    {"text": 'She said "no", twice.', "label": "no"},
    {"text": "NA", "label": "yes"},
    {"text": "caf\u00e9", "label": "yes"},
]
CSV = 'text,label\n"She said ""no"", twice.",no\nNA,yes\ncaf\u00e9,yes\n'
TSV = 'text\tlabel\nShe said "no", twice.\tno\nNA\tyes\ncaf\u00e9\tyes\n'
JSON_LINES = "".join(json.dumps(record) + "\n" for record in RECORDS)


def write(folder: Path, name: str, content: str | bytes | list[dict]) -> Path:
    """Write text, bytes, or records (as Parquet) to a file."""
    path = folder / name
    if isinstance(content, list):
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(content), path)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def error_of(folder: Path, content: str, name: str = "data.csv", **options: object) -> str:
    """Return the message with which loading a file fails; it is one line."""
    with pytest.raises(UserError) as raised:
        load_task(train_file=write(folder, name, content), **options)
    message = str(raised.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("data.csv", CSV),
        ("spreadsheet.csv", "\ufeff" + CSV.replace("\n", "\r\n")),
        ("capital.CSV", CSV + "\n\n"),
        ("data.tsv", TSV),
        ("data.jsonl", JSON_LINES),
        ("data.json", JSON_LINES + "\n"),
        ("data.parquet", RECORDS),
    ],
)
def test_every_file_type_gives_the_same_data(tmp_path, name, content):
    path = write(tmp_path, name, content)
    data = load_task(train_file=path, validation_file=path)
    assert data.train["text"][:] == [record["text"] for record in RECORDS]
    assert data.train["label"][:] == [0, 1, 1]
    assert data.validation["validation"][:] == data.train[:]
    assert (data.name, data.kind, data.label_names) == (path.stem, "classification", ("no", "yes"))
    assert (data.text_columns, data.label_column) == (("text",), "label")
    assert (data.metrics, data.main_metric) == (("accuracy", "f1"), "accuracy")


@pytest.mark.parametrize(
    ("labels", "names", "indices"),
    [
        (["10", "2", "2"], ("2", "10"), [1, 0, 0]),
        (["b", "a", "10"], ("10", "a", "b"), [2, 1, 0]),
        (["1.0", "0.0", "1.0"], ("0", "1"), [1, 0, 1]),
        (["1", "1.5x", "1"], ("1", "1.5x"), [0, 1, 0]),
    ],
)
def test_label_names_are_sorted_as_words_or_as_numbers(tmp_path, labels, names, indices):
    path = write(tmp_path, "data.csv", "text,label\n" + "".join(f"x,{name}\n" for name in labels))
    data = load_task(train_file=path, validation_file=path)
    assert data.label_names == names
    assert data.train["label"][:] == indices


@pytest.mark.parametrize("labels", [[0, 1, 1], [0.0, 1.0, 1.0], ["0", "1", "1"]])
def test_whole_numbers_are_the_same_labels_in_any_type(tmp_path, labels):
    rows = [{"text": "x", "label": label} for label in labels]
    path = write(tmp_path, "data.parquet", rows)
    data = load_task(train_file=path, validation_file=path)
    assert (data.label_names, data.train["label"][:]) == (("0", "1"), [0, 1, 1])


def test_codes_that_look_like_exponents_are_classes(tmp_path):
    rows = "".join(f"a,{label}\n" for label in ["123", "7E4"] * 5)
    path = write(tmp_path, "data.csv", "text,label\n" + rows)
    assert load_task(train_file=path).label_names == ("123", "7E4")


def test_regression_labels_are_floats_even_if_whole(tmp_path):
    path = write(tmp_path, "data.csv", "sentence1,sentence2,label\na,b,1\nc,d,3\n")
    data = load_task(train_file=path, validation_file=path, kind="regression")
    assert data.train[:] == {"text": ["a", "c"], "text_pair": ["b", "d"], "label": [1.0, 3.0]}
    assert isinstance(data.train[0]["label"], float)
    assert (data.label_names, data.metrics) == ((), ("pearson", "spearman"))
    assert data.text_columns == ("sentence1", "sentence2")


def test_named_columns_win_over_guessed_ones(tmp_path):
    path = write(tmp_path, "data.csv", "text,question,answer,gold\nx,q,a,0\nx,r,b,1\nx,r,b,1\n")
    data = load_task(train_file=path, text_columns=["question", "answer"], label_column="gold")
    both = [*data.train, *data.validation["validation"]]
    assert {(row["text"], row["text_pair"]) for row in both} == {("q", "a"), ("r", "b")}


def numbered_rows(count: int) -> str:
    return "text,label\n" + "".join(f"sentence {i},{i % 2}\n" for i in range(count))


RARE = "text,label\n" + "".join(f"{i},{'b' if i == 7 else 'a'}\n" for i in range(20))


def test_the_only_row_of_a_class_is_for_training(tmp_path):
    path = write(tmp_path, "data.csv", RARE)
    for seed in range(20):
        data = load_task(train_file=path, data_seed=seed)
        assert set(data.train["label"]) == {0, 1}
        order = list(range(20))
        random.Random(f"validation-{seed}").shuffle(order)
        # As without the class, but for its row.
        drawn = [row for row in order if row != 7][:2]
        assert data.validation["validation"]["text"][:] == [str(row) for row in sorted(drawn)]


def test_rows_of_which_each_is_the_only_one_of_its_class_are_not_split(tmp_path):
    said = error_of(tmp_path, "text,label\nx,a\nx,b\nx,c\n")
    assert said.startswith("validation_file: each row of ")


def test_a_tenth_is_split_off_by_the_seed_alone(tmp_path):
    path = write(tmp_path, "data.csv", numbered_rows(50))
    splits = [load_task(train_file=path, data_seed=seed) for seed in (3, 3, 4)]
    first, again, other = (data.validation["validation"]["text"][:] for data in splits)
    assert len(first) == 5
    assert first == again != other
    assert not set(first) & set(splits[0].train["text"])
    assert len(splits[0].train) == 45


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        ("", {}, ["train_file", "data.csv is empty"]),
        ("text,label\n", {}, ["train_file", "data.csv is empty", "no rows"]),
        ("text,label\na,0\n", {"text_columns": ["body"]}, ["'body'", "text, label"]),
        ("text,gold\na,0\nb,1\n", {}, ["label_column", "'label'", "text, gold"]),
        ("body,label\na,0\nb,1\n", {}, ["text_columns", "body, label"]),
        ("text,sentence,label\na,b,0\n", {}, ["text_columns", "several text columns"]),
        ("text,label\na,0\nb,1\n", {"text_columns": []}, ["text_columns", "nothing"]),
        ("text,label\na,0\nb,1\n", {"text_columns": ["text"] * 2}, ["two different ones"]),
        ("text,label\na,0\nb,1\n", {"text_columns": ["label"]}, ["'label' is also a text"]),
        ("text,label\n,0\n,1\n", {}, ["text_columns", "only empty values", "2 of 2 rows"]),
        ("text,label\na,0\n,1\n,1\n", {}, ["text_columns", "2 of 3 rows", "first: row 2"]),
        ("text,label\n ,0\n ,1\n", {}, ["text_columns", "all 2 texts", "blank"]),
        ("text,label\na,0\nb,\n", {}, ["label_column", "1 of 2 rows"]),
        ("text,label\na,0\nb, \n", {}, ["label_column", "1 of 2 rows", "first: row 2"]),
        ("text,label\na,no\nb,yes\nc,no \n", {}, ["'no' and 'no ' (row 3)", "blanks alone"]),
        ("text,label\na,1\nb,1\n", {}, ["label_column", "single value '1'"]),
        ("text,label\na,1.5\nb,2\n", {}, ["kind", "1.5", "kind=regression"]),
        ("text,label\na,1\nb,2e-05\n", {}, ["kind", "2e-05", "kind=regression"]),
        ("text,label\na,1\nb,2.3e-05\n", {}, ["kind", "2.3e-05", "kind=regression"]),
        ("text,label\na,0.5\nb,1e-05\n", {}, ["kind", "kind=regression"]),
        ("text,label\na,1\nb,bad\n", {"kind": "regression"}, ["kind", "'bad' in row 2"]),
        ("text,label\na,1\nb,1_0\n", {"kind": "regression"}, ["kind", "'1_0' in row 2"]),
        ("text,label\na,1\nb,inf\n", {"kind": "regression"}, ["kind", "'inf' in row 2"]),
        ("text,label\na,2\nb,2\n", {"kind": "regression"}, ["single value 2.0"]),
        ("text,label\na,0\nb,1\n", {"kind": "ranking"}, ["kind", "'ranking'"]),
        ("text,label\na,0,1\n", {}, ["3 fields in line 2", "2 in its header"]),
        ("text,text,label\na,b,0\n", {}, ["more than one column 'text'"]),
        ('text,label\n"a,0\nb,1\n', {}, ["not well-formed CSV", "unclosed quote"]),
    ],
)
def test_unusable_data_is_refused_in_one_sentence(tmp_path, content, options, words):
    message = error_of(tmp_path, content, **options)
    assert [word for word in words if word not in message] == [], message


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("data.jsonl", '{"text": "a", "label": 0}\n{"text": "b"\n', "no valid JSON in line 2"),
        ("data.jsonl", '[{"text": "a", "label": 0}]\n', "list"),
        ("data.jsonl", '{"text": "a", "label": 0}\n{"label": 1}\n', "1 of 2 rows"),
        ("data.jsonl", '{"text": 5, "label": 0}\n{"text": 6, "label": 1}\n', "holds 5 in row 1"),
        ("data.jsonl", '{"text": "a", "label": [0]}\n', r"holds [0] in row 1"),
        ("data.tsv", "text\tlabel\na\n", "1 field in line 2"),
        ("data.parquet", "PAR1 and then nothing", "not a complete Parquet file"),
        ("data.csv", "text,label\ncaf\u00e9,1\n".encode("latin-1"), "not UTF-8"),
        ("data.xlsx", "x", "'.xlsx'"),
        ("data", "x", "'nothing'"),
    ],
)
def test_malformed_files_are_refused(tmp_path, name, content, words):
    assert words in error_of(tmp_path, content, name)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_lone_carriage_return_is_of_a_text_in_tsv(tmp_path, end):
    lines = ["text\tlabel", "a\rb\t0", "\rc\t1", "0\td\r", ""]
    table = read_table(write(tmp_path, "data.tsv", end.join(lines)))
    last = "d\r" if end == "\r\n" else "d"
    assert table.records() == [
        {"text": "a\rb", "label": "0"}, {"text": "\rc", "label": "1"}, {"text": "0", "label": last},
    ]  # fmt: skip
    single = read_table(write(tmp_path, "single.tsv", end.join(["text", "a\rb", "c", ""])))
    assert single.records() == [{"text": "a\rb"}, {"text": "c"}]


def test_carriage_returns_alone_end_the_lines_of_a_tsv_with_no_other_breaks(tmp_path):
    table = read_table(write(tmp_path, "data.tsv", "text\tlabel\ra\t0\rb\t1\r"))
    assert [row["text"] for row in table.records()] == ["a", "b"]


def test_tsv_is_not_advised_to_quote(tmp_path):
    said = error_of(tmp_path, 'text\tlabel\n"a\tb"\t0\n', "data.tsv")
    assert "3 fields in line 2" in said
    assert "need quoting" not in said
    assert "need quoting" in error_of(tmp_path, "text,label\na,b,0\n")


def test_a_carriage_return_in_a_text_of_json_lines_is_refused(tmp_path):
    said = error_of(tmp_path, '{"text": "a\rb", "label": 0}\n', "data.jsonl")
    assert "has no valid JSON in line 1" in said


def test_a_truncated_parquet_file_is_refused(tmp_path):
    whole = write(tmp_path, "whole.parquet", RECORDS).read_bytes()
    message = error_of(tmp_path, whole[: len(whole) // 2], "cut.parquet")
    assert "not a complete Parquet file" in message


def test_a_true_or_false_label_is_no_number(tmp_path):
    lines = '{"text": "a", "label": true}\n{"text": "b", "label": false}\n'
    assert "True in row 1" in error_of(tmp_path, lines, "data.jsonl", kind="regression")


def test_a_missing_file_or_a_folder_is_named(tmp_path):
    with pytest.raises(UserError, match=r"train_file: .*gone\.csv does not exist"):
        load_task(train_file=tmp_path / "gone.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(UserError, match="is not a file"):
        load_task(train_file=tmp_path / "folder.csv")
    train = write(tmp_path, "train.csv", CSV)
    with pytest.raises(UserError, match=r"validation_file: .*gone\.csv does not exist"):
        load_task(train_file=train, validation_file=tmp_path / "gone.csv")


def test_a_validation_label_that_training_lacks_is_refused(tmp_path):
    train = write(tmp_path, "train.csv", "text,label\na,0\nb,1\n")
    validation = write(tmp_path, "validation.csv", "text,label\na,0\nb,2\n")
    with pytest.raises(UserError, match=r"validation\.csv has the label '2' \(row 2\)"):
        load_task(train_file=train, validation_file=validation)


# Two labels that look the same, and what the sentence has of their difference.
ALIKE = [
    ("a", "a ", "which differ in blanks alone"),
    ("a b", "a\u00a0b", "which differ in blanks alone"),
    ("caf\u00e9", "cafe\u0301", r"different characters ('caf\xe9' and 'cafe\u0301')"),
    ("a", "a\u200b", r"different characters ('a' and 'a\u200b')"),
    ("\u2764", "\u2764\ufe0f", r"different characters ('\u2764' and '\u2764\ufe0f')"),
]


@pytest.mark.parametrize(("label", "other", "words"), ALIKE)
def test_labels_that_look_the_same_are_refused(tmp_path, label, other, words):
    def lines(labels):
        return "".join(json.dumps({"text": "x", "label": each}) + "\n" for each in labels)

    said = error_of(tmp_path, lines([label, "c", other]), "data.jsonl")
    assert "has the labels" in said
    assert "(row 3)" in said
    assert f"{words}; write both the same way." in said
    validation = write(tmp_path, "validation.jsonl", lines(["c", other]))
    said = error_of(tmp_path, lines([label, "c"]), "data.jsonl", validation_file=validation)
    assert "validation.jsonl has the label" in said
    assert "(row 2), and the training data has" in said
    assert f"{words}; write both the same way." in said


def test_labels_of_other_letters_are_classes(tmp_path):
    rows = "".join(f"x,{label}\n" for label in ["cafe", "caf\u00e9", "CAFE"] * 3)
    path = write(tmp_path, "data.csv", "text,label\n" + rows)
    assert load_task(train_file=path).label_names == ("CAFE", "cafe", "caf\u00e9")


def test_other_files_are_read_for_a_known_task(tmp_path):
    path = write(tmp_path, "more.csv", "text,label\na,yes\nb,no\n")
    options = {"text_columns": ["text"], "label_column": "label", "kind": "classification"}
    labelled = load_labelled(path, label_names=("no", "yes"), **options)
    assert labelled["label"][:] == [1, 0]
    with pytest.raises(UserError, match="has the label 'no'"):
        load_labelled(path, label_names=("yes", "other"), **options)
    texts = texts_of(read_table(path), ["text"])
    assert texts[:] == {"text": ["a", "b"]}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"task": "imdb"}, "task: got 'imdb'"),
        ({"task": "cola", "train_file": "a.csv"}, "train_file: .* task=cola"),
        ({"task": "agreement", "data_dir": "glue"}, "data_dir: .* agreement"),
        ({"data_dir": "glue"}, "data_dir: .* agreement"),
        ({"train_file": "a.csv", "data_dir": "glue"}, "data_dir: .* train_file"),
        ({"validation_file": "a.csv"}, "train_file: there is no training data"),
        ({"label_column": "gold"}, "train_file: there is no training data"),
        ({"dataset": "some/set", "train_file": "a.csv"}, "dataset: some/set does not go"),
        ({"train_file": "a.csv", "dataset_config": "en"}, "dataset_config: 'en'"),
        ({"train_sentences": 3}, "train_sentences: got 3"),
        ({"validation_sentences": 0}, "validation_sentences: got 0"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        load_task(**options)


def test_agreement_is_the_default_task():
    data = load_task(train_sentences=40, validation_sentences=20)
    assert (data.name, len(data.train), len(data.validation["validation"])) == ("agreement", 40, 20)
    assert sum(data.train["label"]) == 20
    assert load_task("agreement", train_sentences=40).train[:] == data.train[:]
    assert load_task(train_sentences=40, data_seed=1).train[:] != data.train[:]


def hub_dataset(labels: list[int], names: list[str]):
    import datasets

    features = {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)}
    texts = [f"text {i}" for i in range(len(labels))]
    return datasets.Dataset.from_dict(
        {"text": texts, "label": labels}, features=datasets.Features(features)
    )


def test_a_hub_dataset_keeps_the_order_of_its_classes(monkeypatch):
    names = ["small", "big"]
    splits = {"train": hub_dataset([0, 1, 1], names), "test": hub_dataset([1], names)}
    monkeypatch.setattr("datasets.load_dataset", lambda *_: splits)
    data = load_task(dataset="some/set")
    assert (data.name, data.label_names) == ("some/set", ("small", "big"))
    # The test split is left alone: one of the three training rows was held out.
    assert (len(data.train), len(data.validation["validation"])) == (2, 1)


def test_a_hub_dataset_brings_its_validation_split(monkeypatch):
    splits = {"train": hub_dataset([0, 1], ["a", "b"]), "dev": hub_dataset([1], ["a", "b"])}
    monkeypatch.setattr("datasets.load_dataset", lambda *_: splits)
    data = load_task(dataset="some/set")
    assert data.validation["validation"]["label"][:] == [1]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"test": None}, r"no split 'train' \(its splits are test\)"),
        ({"train": hub_dataset([0, -1], ["a", "b"])}, "label_column: .* 1 of 2 rows"),
        (ConnectionError("no route\nand more"), r"could not be loaded from the hub \(no route\)"),
        (ValueError("no such configuration"), r"\(configuration en\).*no such configuration"),
    ],
)
def test_an_unusable_hub_dataset_is_refused(monkeypatch, answer, words):
    def load_dataset(*_):
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    with pytest.raises(UserError, match=words):
        load_task(dataset="some/set", dataset_config="en")


@pytest.mark.parametrize(
    ("kind", "label", "says"),
    [
        ("regression", "bad", "the run has learnt numbers, so correct the row"),
        ("classification", "0.5", "the run has learnt classes, so correct the column"),
    ],
)
def test_rows_to_score_are_of_the_kind_that_was_learnt(tmp_path, kind, label, says):
    path = write(tmp_path, "data.csv", f"text,label\na,{label}\nb,1\n")
    options = {"text_columns": ["text"], "label_column": "label", "label_names": ("no", "yes")}
    with pytest.raises(UserError, match=says):
        load_labelled(path, kind=kind, **options)
