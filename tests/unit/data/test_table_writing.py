"""Records as files: what each format holds, read back, and what it refuses."""

import json
import math

import pyarrow
import pyarrow.parquet
import pytest

from lora2 import UserError
from lora2.data.tables.files import read_table
from lora2.data.tables.writing import as_json, as_table_file

TEXTS = [
    "plain",
    'a "quoted" one',
    "a, b",
    "two\nlines",
    "c\rd",
    "tab\there",
    " blanks ",
    "漢 Ω 😀",
]


def read_back(records, path, types=None):
    path.write_bytes(as_table_file(records, path, types))
    return read_table(path)


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".json", ".parquet"])
def test_texts_are_read_back_as_they_were(ending, tmp_path):
    records = [{"id": str(row), "a, b": text} for row, text in enumerate(TEXTS)]
    assert read_back(records, tmp_path / f"x{ending}").records() == records


def test_objects_are_json_in_a_cell_whatever_their_fields(tmp_path):
    records = [{"m": {"a": 1, "b": math.nan}}, {"m": None}, {"m": {"c": [2]}}]
    cells = read_back(records, tmp_path / "x.csv").column("m", "file")
    assert cells == ['{"a": 1, "b": null}', None, '{"c": [2]}']


def test_numbers_that_json_has_no_form_for_are_null():
    record = {"a": math.nan, "b": [math.inf, {"c": -math.inf}], "d": 1.5}
    assert json.loads(as_json(record)) == {"a": None, "b": [None, {"c": None}], "d": 1.5}


TYPES = {
    "id": ([1, None], pyarrow.int8()),
    "large": ([2**63 + 1, 1], pyarrow.uint64()),
    "kind": (["x", "y"], pyarrow.dictionary(pyarrow.int32(), pyarrow.string())),
    "price": ([None, None], pyarrow.decimal128(30, 2)),
    "time": ([1, 2], pyarrow.timestamp("ns")),
}


def test_columns_of_parquet_keep_their_types(tmp_path):
    source, copy = tmp_path / "x.parquet", tmp_path / "y.parquet"
    columns = {name: pyarrow.array(*column) for name, column in TYPES.items()}
    pyarrow.parquet.write_table(pyarrow.table(columns), source)
    table = read_table(source)
    copied = read_back(table.records(), copy, table.types)
    assert copied.types == table.types
    assert copied.records() == table.records()


REFUSED = {
    "tab": ("x.tsv", [{"v": "a\tb"}], "row 1"),
    "line break": ("x.tsv", [{"v": "a"}, {"v": "b\nc"}], "row 2"),
    "name with a tab": ("x.tsv", [{"a\tb": 1}], "the header"),
    "several types": ("x.parquet", [{"u": 1, "v": 1}, {"u": 1, "v": "x"}], "column 'v'"),
    "large integer": ("x.parquet", [{"v": 10**30}], "column 'v'"),
    "empty object": ("x.parquet", [{"u": 1, "v": {}}], "column 'v'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_value_without_a_form_is_refused_by_its_place(case, tmp_path):
    name, records, words = REFUSED[case]
    with pytest.raises(UserError, match=words):
        as_table_file(records, tmp_path / name)


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".json", ".jsonl"])
@pytest.mark.parametrize("value", [b"\xff", [{"a": b"\xff"}]])
def test_bytes_are_for_parquet_alone(ending, value, tmp_path):
    records = [{"id": 1, "x": None}, {"id": 2, "x": value}]
    with pytest.raises(UserError, match=r"the column 'x', since row 2 has bytes"):
        as_table_file(records, tmp_path / f"x{ending}")
    assert read_back(records, tmp_path / "x.parquet").records() == records
