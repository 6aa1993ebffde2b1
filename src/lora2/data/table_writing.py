"""Records as the content of a file: CSV, TSV, JSON lines, JSON array or Parquet, by its ending."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lora2.errors import UserError
from lora2.extras import require

Record = dict[str, Any]


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


def as_table_file(records: Sequence[Record], path: Path) -> bytes:
    """Return records as the content of the file `path`, in the format that its ending names.

    Args:
        records: all with the same names in the same order. A value may be a dictionary: in CSV and
            TSV each of its entries has a column of its own, `name_entry`. A number that is NaN or
            infinite is null in JSON, which has no other form for it.
        path: nothing is read from it or written to it.

    Raises:
        UserError: a value that the format has no place for.
    """
    return _WRITERS.get(path.suffix.lower(), _json_lines)(records, path)


def as_json(record: Record) -> str:
    """Return a record as JSON in one line, with null for numbers that are NaN or infinite."""
    return json.dumps(_finite(record), ensure_ascii=False, allow_nan=False, default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _json_lines(records: Sequence[Record], path: Path) -> bytes:
    return "".join(f"{as_json(record)}\n" for record in records).encode()


def _json_array(records: Sequence[Record], path: Path) -> bytes:
    return ("[\n" + ",\n".join(map(as_json, records)) + "\n]\n").encode()


def _csv(records: Sequence[Record], path: Path) -> bytes:
    rows = [_flat(record) for record in records]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _tsv(records: Sequence[Record], path: Path) -> bytes:
    rows = [_flat(record) for record in records]
    lines = [list(rows[0]) if rows else [], *(list(row.values()) for row in rows)]
    for number, line in enumerate(lines):
        if any(mark in str(value) for value in line for mark in "\t\r\n"):
            place = f"row {number}" if number else "the header"
            raise UserError(
                f"output: {path} cannot hold {place}, since a value has a tab or a line break, "
                "which TSV has no form for; give a file that ends in .csv or .jsonl."
            )
    return "".join("\t".join(map(str, line)) + "\n" for line in lines).encode()


def _flat(record: Record) -> Record:
    """Return a record whose values are text and numbers, as a cell holds them."""
    cells: Record = {}
    for name, value in record.items():
        if isinstance(value, dict):
            cells |= {f"{name}_{entry}": _cell(each) for entry, each in value.items()}
        else:
            cells[name] = _cell(value)
    return cells


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, list | tuple | dict):
        return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, default=str)
    return value


def _parquet(records: Sequence[Record], path: Path) -> bytes:
    arrow = require("pyarrow", extra="train")
    parquet = require("pyarrow.parquet", extra="train")
    content = io.BytesIO()
    try:
        parquet.write_table(arrow.Table.from_pylist(list(records)), content)
    except (arrow.ArrowException, OverflowError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"output: {path} cannot hold the rows, since a Parquet column has one type ({reason}); "
            "give a file that ends in .jsonl."
        ) from error
    return content.getvalue()


_WRITERS: dict[str, Callable[[Sequence[Record], Path], bytes]] = {
    ".csv": _csv,
    ".tsv": _tsv,
    ".jsonl": _json_lines,
    ".json": _json_array,
    ".parquet": _parquet,
}
