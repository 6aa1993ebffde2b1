"""Records as the content of a file: CSV, TSV, JSON lines, JSON array or Parquet, by its ending."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lora2.errors import UserError
from lora2.support.error_text import first_line_of
from lora2.support.extras import require
from lora2.support.files import nan_as_null

OutputRow = dict[str, Any]

_BLANKS = str.maketrans("\t\r\n", "   ")


def check_ending(path: Path) -> None:
    """Check that a file's ending names a format that is written; a file without one is JSON lines.

    Raises:
        UserError: it names none.
    """
    if path.suffix and path.suffix.lower() not in _WRITERS:
        raise UserError(
            f"output: {path} ends in {path.suffix!r}, which is none of the known file types; give "
            f"a file that ends in {', '.join(_WRITERS)}."
        )


def is_flat(path: Path | None) -> bool:
    """Whether a file is of a format whose cells are text and numbers: CSV or TSV."""
    return path is not None and path.suffix.lower() in (".csv", ".tsv")


def as_table_file(
    records: Sequence[OutputRow], path: Path, types: Mapping[str, Any] | None = None
) -> bytes:
    """Return records as the content of the file `path`, in the format that its ending names.

    Args:
        records: all with the same names in the same order. A list or dictionary is JSON in a cell
            of CSV and TSV. NaN is an empty cell there, and null in JSON, as infinity is: JSON has
            no other form for them.
        path: nothing is read from it or written to it.
        types: Arrow's types of columns, by name, for Parquet; others are inferred.

    Raises:
        UserError: a value that the format has no place for.
    """
    writer = _WRITERS.get(path.suffix.lower(), _WRITERS[".jsonl"])
    if writer is not _parquet:
        check_has_no_bytes(records, str(path))
    return writer(records, path, types or {})


def check_has_no_bytes(records: Sequence[OutputRow], where: str) -> None:
    """Check that records have no bytes, which no format but Parquet has a form for.

    where: what they are written to, as messages call it.

    Raises:
        UserError: naming the first column that has some.
    """
    for number, record in enumerate(records, start=1):
        for name, value in record.items():
            if _has_bytes(value):
                raise UserError(
                    f"output: {where} cannot hold the column {name!r}, since row {number} has "
                    "bytes there, which only Parquet has a form for; give a file that ends in "
                    ".parquet, or remove the column."
                )


def _has_bytes(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_has_bytes(part) for pair in value.items() for part in pair)
    if isinstance(value, list | tuple):
        return any(map(_has_bytes, value))
    return isinstance(value, bytes)


def as_json(value: Any, *, ascii_only: bool = False) -> str:
    """Return a value as JSON in one line, with null for numbers that are NaN or infinite.

    Args:
        value: a record, or what a cell of one holds.
        ascii_only: whether characters outside of ASCII are escaped.
    """
    return json.dumps(nan_as_null(value), ensure_ascii=ascii_only, allow_nan=False, default=str)


def as_one_line(text: str) -> str:
    """Return a text with blanks for tabs and line breaks, which TSV has no form for."""
    return text.translate(_BLANKS)


def _json_lines(records: Sequence[OutputRow]) -> bytes:
    return "".join(f"{as_json(record)}\n" for record in records).encode()


def _json_array(records: Sequence[OutputRow]) -> bytes:
    return ("[\n" + ",\n".join(map(as_json, records)) + "\n]\n").encode()


def _csv(records: Sequence[OutputRow]) -> bytes:
    text = io.StringIO(newline="")
    plain = csv.writer(text, lineterminator="\n")
    # csv quotes a carriage return only if it is part of its own line ends, and readers end a line.
    quoting = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for line in _lines(records):
        writer = quoting if any("\r" in str(cell) for cell in line) else plain
        writer.writerow(line)
    return text.getvalue().encode()


def _tsv(records: Sequence[OutputRow], path: Path) -> bytes:
    lines = [[str(cell) for cell in line] for line in _lines(records)]
    for number, line in enumerate(lines):
        if any(as_one_line(cell) != cell for cell in line):
            place = f"row {number}" if number else "the header"
            raise UserError(
                f"output: {path} cannot hold {place}, since a value has a tab or a line break, "
                "which TSV has no form for; give a file that ends in .csv or .jsonl."
            )
    return "".join("\t".join(line) + "\n" for line in lines).encode()


def _lines(records: Sequence[OutputRow]) -> Iterator[list[Any]]:
    """Yield the header and one list of cells a record."""
    yield list(records[0]) if records else []
    for record in records:
        yield [_cell(value) for value in record.values()]


def _cell(value: Any) -> Any:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, list | tuple | dict):
        return as_json(value)
    return value


def _parquet(records: Sequence[OutputRow], path: Path, types: Mapping[str, Any]) -> bytes:
    arrow = require("pyarrow", extra="train")
    parquet = require("pyarrow.parquet", extra="train")
    content = io.BytesIO()
    name = ""
    try:
        columns = {}
        for name in records[0] if records else ():
            columns[name] = arrow.array([row[name] for row in records], types.get(name))
            # An object without any field is a value, but no type of Parquet's.
            parquet.write_table(arrow.table({name: columns[name]}).slice(0, 0), io.BytesIO())
        parquet.write_table(arrow.table(columns), content)
    except (arrow.ArrowException, OverflowError) as error:
        reason = first_line_of(error)
        raise UserError(
            f"output: {path} cannot hold the column {name!r}, since a column of Parquet has one "
            f"type ({reason}); give a file that ends in .jsonl."
        ) from error
    return content.getvalue()


_Writer = Callable[[Sequence[OutputRow], Path, Mapping[str, Any]], bytes]
_WRITERS: dict[str, _Writer] = {
    ".csv": lambda records, path, types: _csv(records),
    ".tsv": lambda records, path, types: _tsv(records, path),
    ".jsonl": lambda records, path, types: _json_lines(records),
    ".json": lambda records, path, types: _json_array(records),
    ".parquet": _parquet,
}
