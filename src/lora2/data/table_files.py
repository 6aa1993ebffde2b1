"""The user's own files: CSV, TSV, JSON lines or Parquet, read into a `Table`.

All formats end in the same thing: columns of Python values, None where a value is missing. Words
such as "NA", "null" or "None" in a text file are text; only an empty field is a missing value.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from lora2.errors import UserError
from lora2.support.extras import require


@dataclass(frozen=True)
class Table:
    """Named columns of equally many values.

    Attributes:
        source: what error messages call the table: a path or a dataset's name.
        column_names: in the order of the source.
        rows: number of rows.
        read_column: returns one column, None for missing values. A function, so that a wide
            Parquet file is not turned into Python objects for the sake of two columns.
        class_names: of columns that come with the names of their classes (hub datasets).
    """

    source: str
    column_names: tuple[str, ...]
    rows: int
    read_column: Callable[[str], list[object]]
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def column(self, name: str, role: str) -> list[object]:
        """Return the values of column `name`; `role` is the option that asked for it.

        Raises:
            UserError: there is no such column.
        """
        if name not in self.column_names:
            raise UserError(
                f"{role}: {self.source} has no column {name!r}; its columns are "
                f"{', '.join(self.column_names)}."
            )
        return self.read_column(name)


def read_table(path: Path | str, role: str = "file") -> Table:
    """Read a file by its ending; `role` is the option that named it ("train_file").

    CSV has a header and standard quoting. TSV has a header and no quoting, as the GLUE files: a
    `"` is an ordinary character. JSON lines hold one object a line.

    Raises:
        UserError: no such file, an unknown ending, or content that is not of that format.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(
            f"{role}: {path} ends in {path.suffix or 'nothing'!r}, which is none of the known "
            f"file types; give a file that ends in {', '.join(_READERS)}."
        )
    if not path.exists():
        raise UserError(f"{role}: {path} does not exist; give the path of an existing file.")
    if not path.is_file():
        raise UserError(f"{role}: {path} is not a file; give the path of a file.")
    if path.stat().st_size == 0:
        raise UserError(f"{role}: {path} is empty; give a file with at least two rows.")
    try:
        table = reader(path)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{role}: {path} is not UTF-8 text (byte {error.start} of it); convert it to UTF-8."
        ) from error
    except PermissionError as error:
        raise UserError(f"{role}: {path} may not be read; change its permissions.") from error
    except _MalformedError as error:
        raise UserError(f"{role}: {path} {error}.") from error
    if table.rows == 0:
        raise UserError(
            f"{role}: {path} is empty, it has no rows below the header; give a file with at least "
            f"two rows."
        )
    return table


class _MalformedError(Exception):
    """Content that is not of its format; the message continues "train_file: PATH ..."."""


def _table(path: Path, columns: dict[str, list[object]]) -> Table:
    rows = len(next(iter(columns.values()), []))
    return Table(str(path), tuple(columns), rows, columns.__getitem__)


def _open(path: Path) -> TextIO:
    # utf-8-sig: spreadsheet programs put a byte-order mark in front of the first column's name.
    return path.open(encoding="utf-8-sig", newline="")


def _columns_of_rows(rows: Iterator[tuple[int, list[str]]]) -> dict[str, list[object]]:
    """Turn a header and rows, each with its line number, into columns."""
    _, header = next(rows, (0, []))
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise _MalformedError(f"has more than one column {repeated[0]!r}; rename all but one")
    columns: dict[str, list[object]] = {name: [] for name in header}
    for line_number, row in rows:
        if len(row) != len(header):
            raise _MalformedError(
                f"has {len(row)} fields in line {line_number} but {len(header)} in its header; "
                f"mend that line (a text that holds the separator may need quoting)"
            )
        for name, value in zip(header, row, strict=True):
            columns[name].append(value or None)
    return columns


def _read_csv(path: Path) -> Table:
    with _open(path) as file:
        # strict: an unclosed quote is an error instead of a text that swallows the file's rest.
        reader = csv.reader(file, strict=True)
        try:
            rows = ((reader.line_num, row) for row in reader if row)
            return _table(path, _columns_of_rows(rows))
        except csv.Error as error:
            raise _MalformedError(
                f"is not well-formed CSV near line {reader.line_num} ({error}); "
                f"look for an unclosed quote there"
            ) from error


def _read_tsv(path: Path) -> Table:
    with _open(path) as file:
        lines = ((number, line.rstrip("\r\n")) for number, line in enumerate(file, start=1))
        rows = ((number, line.split("\t")) for number, line in lines if line)
        return _table(path, _columns_of_rows(rows))


def _read_json_lines(path: Path) -> Table:
    records: list[dict[str, object]] = []
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                raise _MalformedError(
                    f"has no JSON value in line {number}; write one complete JSON object a line"
                ) from error
            if not isinstance(record, dict):
                raise _MalformedError(
                    f"has {type(record).__name__} {str(record)[:40]!r} in line {number} where an "
                    f"object should be; write one JSON object a line"
                )
            records.append(record)
    # A dict keeps the order in which names first appear; rows may leave out some of them.
    names = dict.fromkeys(name for record in records for name in record)
    columns = {name: [record.get(name) for record in records] for name in names}
    return Table(str(path), tuple(names), len(records), columns.__getitem__)


def _read_parquet(path: Path) -> Table:
    parquet = require("pyarrow.parquet", extra="train")
    arrow = require("pyarrow", extra="train")
    try:
        table = parquet.read_table(path)
    except PermissionError:
        raise
    except (arrow.ArrowException, OSError) as error:
        raise _MalformedError(
            "is not a complete Parquet file; write it again, or give another format"
        ) from error
    return Table(
        str(path),
        tuple(table.column_names),
        table.num_rows,
        lambda name: table.column(name).to_pylist(),
    )


_READERS: dict[str, Callable[[Path], Table]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_json_lines,
    ".json": _read_json_lines,
    ".parquet": _read_parquet,
}
