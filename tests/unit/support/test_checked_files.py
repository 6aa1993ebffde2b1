"""Reading JSON and YAML of a user's disk: each fault in one sentence that names the file."""

import math
from pathlib import Path
from typing import Any

import pytest

from lora2.errors import UserError
from lora2.support.checked_files import check_fields, read_json, read_json_lines, read_yaml
from lora2.support.files import write_json_atomically
from lora2.training.on_disk.records import read_lines, write_lines

DEEP = 100_000
# Content of the file (None: no file), what the sentence says of it.
OF_ANY = {
    "missing": (None, "does not exist"),
    "empty": (b" \n", "is empty"),
    "binary": (bytes(range(256)), "is not UTF-8 text"),
    "utf-16": ("{}".encode("utf-16"), "is UTF-16 text"),
    "utf-32": ("{}".encode("utf-32"), "is UTF-32 text"),
    "a number": (b"5", "a whole number"),
    "null": (b"null", "null"),
    "a list": (b"[]", "a list"),
    "deep": (b"[" * DEEP + b"]" * DEEP, "nested too deeply"),
}
OF_JSON = OF_ANY | {
    "half": (b'{"k": 1, "r', "was cut short"),
    "NaN": (b'{"k": NaN}', "NaN, which is not a number of JSON"),
    "infinity": (b'{"k": 1e999}', "1e999, which is not a number of JSON"),
    "twice": (b'{"k": 1, "k": 2}', "has the key 'k' twice"),
    "digits": (b'{"k": ' + b"1" * 5000 + b"}", "too many digits"),
    "a folder": ("folder", "is a folder"),
}
OF_YAML = OF_ANY | {
    "half": (b"k: 1\nmodel: 'x", "is not valid YAML"),
    "a line without a colon": (
        b"k: 1\nr\nx: 2\n",
        r"is not valid YAML \(while scanning a simple key in line 2, column 1: could not find "
        r"expected ':' in line 3, column 1\)",
    ),
    "a text": (b"nonsense", "a text in place of lines"),
    "twice": (b"k: 1\nr: 2\nk: 3\n", r"has the key 'k' twice \(line 3\)"),
    "twice within": (b"a:\n  k: 1\n  k: 3\n", "has the key 'k' twice"),
    "digits": (b"k: " + b"1" * 5000, "cannot read"),
    "a thirteenth month": (b"k: 2020-13-01", "cannot read"),
    "no number": (b"k: !!int x", "cannot read"),
    "a key without a name": (b"? [1]\n: 2\n", "is not valid YAML"),
    "a number as a key": (b"1: 2\n", "has the key 1, which is not a name"),
}


def file_with(content: bytes | str | None, folder: Path) -> Path:
    path = folder / "some.file"
    if isinstance(content, str):
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    return path


@pytest.mark.parametrize("case", OF_JSON)
def test_damaged_json_is_named(case: str, tmp_path: Path) -> None:
    content, fault = OF_JSON[case]
    path = file_with(content, tmp_path)
    with pytest.raises(UserError, match=rf"some\.file .*{fault}.*; write it again\.$"):
        read_json(path, "write it again")


@pytest.mark.parametrize("case", OF_YAML)
def test_damaged_yaml_is_named(case: str, tmp_path: Path) -> None:
    content, fault = OF_YAML[case]
    path = file_with(content, tmp_path)
    with pytest.raises(UserError, match=rf"some\.file .*{fault}.*; write it again\.$") as caught:
        read_yaml(path, "write it again")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_a_byte_order_mark_is_left_out(start: str, tmp_path: Path) -> None:
    path = tmp_path / "some.file"
    path.write_text(f'{start}{{"k": 1}}', encoding="utf-8")
    assert read_json(path, "") == read_yaml(path, "") == {"k": 1}


def test_a_path_that_no_file_can_have_is_cut_off() -> None:
    for read in (read_json, read_yaml):
        with pytest.raises(UserError, match=r"^x{60}… cannot be read \(File name too long\); give"):
            read(Path("x" * 3000), "give another")


def test_an_alias_that_contains_itself_is_read(tmp_path: Path) -> None:
    path = tmp_path / "some.file"
    path.write_text("k: &a [*a]\n")
    assert list(read_yaml(path, "")) == ["k"]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "some.file"
    path.write_text('{"k": "\\u2028\u2028"}\n\n[]\n', encoding="utf-8")
    with pytest.raises(UserError, match="its line 3 holds a list"):
        read_json_lines(path, "")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ({}, "lacks the key 'k'"),
        ({"k": None}, "k is null, and must be a whole number"),
        ({"k": True}, "k is true, and must be a whole number"),
        ({"k": 1.5}, "k is 1.5, and must be a whole number"),
        ({"k": 10**5000, "names": [1]}, "names is a list, and must be a list in which each is a t"),
        ({"k": 1, "names": None}, "names is null"),
        ({"k": 1, "names": [], "rate": "x"}, "rate is 'x', and must be a number, or null"),
    ],
)
def test_a_field_of_another_type_is_named(content: dict, fault: str) -> None:
    fields = {"k": int, "names": list[str], "rate": float | None}
    with pytest.raises(UserError, match=f"a.json.*{fault}.*; write it again"):
        check_fields(content, fields, Path("a.json"), "write it again")


def test_numbers_that_are_none_are_written_as_null(tmp_path: Path) -> None:
    value = {"a": [math.nan, 1.0], "b": {"c": -math.inf}}
    write_json_atomically(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json", "") == {"a": [None, 1.0], "b": {"c": None}}
    write_lines(tmp_path / "a.jsonl", [{"step": 1, "loss": math.inf}])
    assert read_lines(tmp_path / "a.jsonl") == [{"step": 1, "loss": None}]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("-7", -7),
        ("010", "010"),
        ("0x10", 16),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("1:30.5", "1:30.5"),
        ("1.5", 1.5),
        ("-.5", -0.5),
        ("1.0e-05", 1e-5),
        ("1e-3", "1e-3"),
        (".inf", math.inf),
        ("-.inf", -math.inf),
        ("true", True),
        ("null", None),
    ],
)
def test_numbers_in_yaml_are_what_they_look_like(text: str, value: Any, tmp_path: Path) -> None:
    (tmp_path / "options.yaml").write_text(f"value: {text}\n")
    assert read_yaml(tmp_path / "options.yaml", "mend it") == {"value": value}
