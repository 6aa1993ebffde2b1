"""Files that are no data, by what is wrong with them."""

import json

import pytest

from lora2 import UserError
from lora2.data.columns import read_labels, sorted_label_names
from lora2.data.table_files import read_table

ROWS = "text,label\nthe table is here,1\nthe doctor is away,0\n"
DEEP = "[" * 100_000 + "]" * 100_000

FAULTS = {
    "utf_16": ("x.csv", ROWS.encode("utf-16"), "is UTF-16 text"),
    "utf_16_without_mark": ("x.csv", ROWS.encode("utf-16-le"), "UTF-16"),
    "utf_32": ("x.csv", ROWS.encode("utf-32"), "is UTF-32 text"),
    "utf_16_json": ("x.jsonl", '{"text": "a"}'.encode("utf-16"), "is UTF-16 text"),
    "latin_1": ("x.csv", "text\nzoë\n".encode("latin-1"), "Latin-1"),
    "binary": ("x.csv", b"text\n\x00\x01\x02abcdefghijklmnop\n", "NUL"),
    "surrogate": ("x.jsonl", b'{"text": "\\ud800"}\n', "surrogate pair"),
    "surrogate_in_a_name": ("x.jsonl", b'{"\\udc00": "a"}\n', "surrogate pair"),
    "surrogate_in_messages": ("x.jsonl", b'{"m": [{"content": "\\ud83d"}]}\n', "line 1"),
    "many_digits": ("x.jsonl", b'{"label": ' + b"1" * 5000 + b"}\n", "too many digits"),
    "deep": ("x.jsonl", f'{{"text": {DEEP}}}\n'.encode(), "nested too deeply"),
    "deep_array": ("x.json", DEEP.encode(), "nested too deeply"),
    "half_an_array": ("x.json", b'[{"text": "a"},', "its array"),
    "array_of_numbers": ("x.json", b"[1, 2]", "entry 1"),
    "empty_array": ("x.json", b"[]", "no rows"),
    "name_twice": ("x.jsonl", b'{"text": "a", "text": "b"}\n', "'text' twice"),
    "only_blank_lines": ("x.jsonl", b"\n\n", "no rows"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_is_no_data_is_refused_by_what_it_is(fault, tmp_path):
    name, content, words = FAULTS[fault]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError) as refusal:
        read_table(path, "train_file")
    assert str(refusal.value).startswith(f"train_file: {path}")
    assert words in str(refusal.value)


def test_a_whole_surrogate_pair_is_a_character(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"text": "\\ud83d\\ude00"}\n')
    assert read_table(path).column("text", "file") == ["\N{GRINNING FACE}"]


def test_a_cell_may_be_longer_than_pythons_own_limit(tmp_path):
    path, text = tmp_path / "x.csv", "word " * 100_000
    path.write_text(f'text,label\n"{text}",1\n')
    assert read_table(path).column("text", "file") == [text]


@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_of_objects_is_read_as_lines_are(indent, tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps([{"text": "a", "label": 1}, {"text": "b"}], indent=indent))
    table = read_table(path)
    assert table.column("label", "file") == [1, None]
    assert table.records() == [{"text": "a", "label": 1}, {"text": "b", "label": None}]


def test_columns_with_commas_are_listed_in_quotes(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text('"what, then",label, padded\na,1,2\n')
    with pytest.raises(UserError, match="its columns are 'what, then', label, ' padded'"):
        read_table(path).column("text", "file")


def test_labels_of_thousands_of_digits_are_names():
    labels = ["1" * 5000, "2" * 5000]
    assert sorted_label_names(labels) == tuple(labels)


def test_a_huge_value_is_shortened_in_a_message(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text(f"text,label\na,{'x' * 10_000}\n")
    with pytest.raises(UserError) as refusal:
        read_labels(read_table(path), "label", "regression")
    assert len(str(refusal.value)) < 400
