"""JSON lines and JSON arrays as tables, one object a row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lora2.data.tables.malformed import MalformedError
from lora2.data.tables.table import DataTable
from lora2.data.tables.text_encoding import open_text
from lora2.support.shown_values import cut_off
from lora2.support.strict_json import DEEPEST, JsonError, parse

# Characters of a value that a message shows.
_SHOWN = 40


def table_of_json_lines(
    path: Path, advice: str = "write one complete JSON object a line"
) -> DataTable:
    """Read a file of one object a line; `advice` is what to do about a line that is none.

    Raises:
        MalformedError: it is no such file.
    """
    records: list[dict[str, object]] = []
    with open_text(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                place = f"line {number}"
                record = _parsed(line, place, advice)
                records.append(_object(record, place))
    return _table_of_records(path, records)


def table_of_json(path: Path) -> DataTable:
    """Read a file of an array of objects, or of one object a line.

    Raises:
        MalformedError: it is no such file.
    """
    with open_text(path) as file:
        text = file.read()
    if not text.lstrip().startswith("["):
        return table_of_json_lines(path, "write an array of objects, or one complete object a line")
    array = _parsed(text, "its array", "write one complete JSON array of objects")
    return _table_of_records(
        path, [_object(record, f"entry {number}") for number, record in enumerate(array, start=1)]
    )


def list_in_cell(text: str) -> list[object] | None:
    """Return the list that a cell of CSV or TSV holds as JSON, None where it holds none."""
    if not text.lstrip().startswith("["):
        return None
    try:
        value: list[object] = json.loads(text)
        return value if _is_encodable(value) else None
    except (ValueError, RecursionError):
        return None


def _parsed(text: str, place: str, advice: str) -> Any:
    """Return a JSON value; `place` is where it is in the file."""
    try:
        value = parse(text, not_finite="read")
    except JsonError as error:
        raise MalformedError(_sentence(error, text, place, advice)) from error
    if "\\ud" in text.lower() and not _is_encodable(value):
        raise MalformedError(
            f"has half of a surrogate pair (an escape such as \\ud800 alone) in {place}, which is "
            "no character; remove it"
        )
    return value


def _sentence(error: JsonError, text: str, place: str, advice: str) -> str:
    if error.syntax is not None:
        where = f"line {error.syntax.lineno}, " if "\n" in text.rstrip() else ""
        found = f"{error.syntax.msg}: {where}column {error.syntax.colno}"
        return f"has no valid JSON in {place} ({found}); {advice}"
    if error.fault == "repeated key":
        return f"has the name {error.name!r} twice in one object in {place}; remove one of them"
    if error.fault == "too deep":
        return (
            f"has JSON in {place} that is nested too deeply; write no more than {DEEPEST} lists "
            "and objects in each other"
        )
    return f"has a number of too many digits in {place}; write it as a text, in quotes"


def _is_encodable(value: object) -> bool:
    """Whether a value of JSON holds characters alone, and no half of a surrogate pair."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _object(record: object, place: str) -> dict[str, object]:
    if isinstance(record, dict):
        return record
    kinds = {list: "the list ", str: "the text ", bool: "", type(None): ""}
    shown = cut_off(json.dumps(record, ensure_ascii=False), _SHOWN)
    raise MalformedError(
        f"has {kinds.get(type(record), 'the number ')}{shown} in {place} where an object should "
        "be; write one JSON object for each row"
    )


def _table_of_records(path: Path, records: list[dict[str, object]]) -> DataTable:
    # A dict keeps the order in which names first appear; rows may leave out some of them.
    names = dict.fromkeys(name for record in records for name in record)
    columns = {name: [record.get(name) for record in records] for name in names}
    return DataTable(str(path), tuple(names), len(records), columns.__getitem__)
