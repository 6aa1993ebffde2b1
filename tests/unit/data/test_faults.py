"""Files that are no data, by what is wrong with them."""

import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from lora2 import UserError
from lora2.data.own.columns import read_labels, sorted_label_names
from lora2.data.tables.files import read_table

ROWS = "text,label\nthe table is here,1\nthe doctor is away,0\n"
CHINESE = "text,label\n" + "漢字漢字,好\n" * 50
DEEP = "[" * 100_000 + "]" * 100_000

FAULTS = {
    "utf_16": ("x.csv", ROWS.encode("utf-16"), "is UTF-16 text"),
    "utf_16_without_mark": ("x.csv", ROWS.encode("utf-16-le"), "UTF-16"),
    "utf_32": ("x.csv", ROWS.encode("utf-32"), "is UTF-32 text"),
    "utf_16_json": ("x.jsonl", '{"text": "a"}'.encode("utf-16"), "is UTF-16 text"),
    "latin_1": ("x.csv", "text\nzoë\n".encode("latin-1"), "Latin-1"),
    "utf_16_be": ("x.csv", ROWS.encode("utf-16-be"), "iconv -f UTF-16BE"),
    "utf_16_chinese": ("x.csv", CHINESE.encode("utf-16-le"), "seems to be UTF-16 text"),
    "utf_32_without_mark": ("x.csv", ROWS.encode("utf-32-le"), "seems to be UTF-32 text"),
    "latin_1_late": ("x.csv", f"{ROWS * 500}zoë,1".encode("latin-1"), "in line 1501"),
    "binary": ("x.csv", b"text\n\x00\x01\x02abcdefghijklmnop\n", "NUL"),
    "nul_late": ("x.csv", f"{ROWS * 500}a\0b,1".encode(), "NUL byte in line 1501"),
    "surrogate_bytes": ("x.csv", b"text\n\xed\xa0\x80\n", "line 2 has half of a surrogate pair"),
    "gzip": ("x.csv", gzip.compress(ROWS.encode()), "gzip archive"),
    "spreadsheet": ("x.csv", b"PK\x03\x04\x14\x00", "zip archive"),
    "parquet_by_another_name": ("x.csv", b"PAR1\x15\x04", ".parquet"),
    "surrogate": ("x.jsonl", b'{"text": "\\ud800"}\n', "surrogate pair"),
    "surrogate_in_a_name": ("x.jsonl", b'{"\\udc00": "a"}\n', "surrogate pair"),
    "surrogate_in_messages": ("x.jsonl", b'{"m": [{"content": "\\ud83d"}]}\n', "line 1"),
    "many_digits": ("x.jsonl", b'{"label": ' + b"1" * 5000 + b"}\n", "too many digits"),
    "deep": ("x.jsonl", f'{{"text": {DEEP}}}\n'.encode(), "nested too deeply"),
    "deep_array": ("x.json", DEEP.encode(), "nested too deeply"),
    "deep_for_writers": ("x.jsonl", f'{{"x": {"[" * 900}{"]" * 900}}}'.encode(), "too deeply"),
    "half_an_array": ("x.json", b'[{"text": "a"},', "its array"),
    "array_of_numbers": ("x.json", b"[1, 2]", "the number 1 in entry 1"),
    "list_in_a_line": ("x.jsonl", b"[1, 2]\n", "the list [1, 2] in line 1"),
    "null_in_a_line": ("x.jsonl", b"null\n", "has null in line 1"),
    "object_over_lines": ("x.json", b'{\n"text": "a"}', "write an array of objects"),
    "no_columns": ("x.jsonl", b"{}\n{}\n", "without any column"),
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


def test_a_name_that_no_file_can_have_is_refused(tmp_path):
    for name in ("a" * 300, "a\0b"):
        with pytest.raises(UserError, match=r"cannot be read|does not exist"):
            read_table(tmp_path / f"{name}.csv")


def test_lists_within_the_limit_are_read(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(f'{{"text": "a", "x": {"[" * 90}{"]" * 90}}}\n')
    assert read_table(path).column("text", "file") == ["a"]


def test_columns_of_parquet_with_one_name_are_refused(tmp_path):
    path, column = tmp_path / "x.parquet", pyarrow.array(["a"])
    table = pyarrow.Table.from_arrays([column, column], names=["text", "text"])
    pyarrow.parquet.write_table(table, path)
    with pytest.raises(UserError, match="more than one column 'text'"):
        read_table(path)


@pytest.mark.parametrize(
    ("label", "kind"),
    [("Infinity", "classification"), ("1e999", "classification"), ("1e40", "regression")],
)
def test_labels_that_float32_does_not_hold_are_refused(label, kind, tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(f'{{"label": 1}}\n{{"label": {label}}}\n')
    with pytest.raises(UserError, match="row 2"):
        read_labels(read_table(path), "label", kind)
