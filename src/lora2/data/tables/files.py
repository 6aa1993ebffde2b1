"""The user's own files: CSV, TSV, JSON lines, JSON arrays or Parquet, read into a `DataTable`.

All formats end in the same thing: columns of Python values, None where a value is missing. Words
such as "NA", "null" or "None" in a text file are text; only an empty field is a missing value.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from lora2.data.tables.text_encoding import check_is_utf8_text
from lora2.errors import UserError
from lora2.support.error_text import first_line_of
from lora2.support.extras import require

# A cell may be a whole document. The limit of Python's csv is 128 KiB; this is a C long's on every
# system.
_LONGEST_CELL = 2**31 - 1
# The depth of lists and objects in each other. Python's own limit is some hundreds, differs by
# version, and leaves none for those that write them again.
_DEEPEST = 100
# Characters of a value that a message shows.
_SHOWN = 40


@dataclass(frozen=True)
class DataTable:
    """Named columns of equally many values.

    Attributes:
        source: what error messages call the table: a path or a dataset's name.
        column_names: in the order of the source.
        rows: number of rows.
        read_column: returns one column, None for missing values. A function, so that a wide
            Parquet file is not turned into Python objects for the sake of two columns.
        class_names: of columns that come with the names of their classes (hub datasets).
        types: Arrow's types of columns, where the source has them (Parquet).
    """

    source: str
    column_names: tuple[str, ...]
    rows: int
    read_column: Callable[[str], list[object]]
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    types: Mapping[str, Any] = field(default_factory=dict)

    def column(self, name: str, role: str) -> list[object]:
        """Return the values of column `name`; `role` is the option that asked for it.

        Raises:
            UserError: there is no such column.
        """
        if name not in self.column_names:
            raise UserError(
                f"{role}: {self.source} has no column {name!r}; its columns are "
                f"{listed(self.column_names)}."
            )
        return self.read_column(name)

    def records(self) -> list[dict[str, object]]:
        """Return one dictionary a row, with all columns in their order."""
        columns = [self.read_column(name) for name in self.column_names]
        return [
            dict(zip(self.column_names, row, strict=True)) for row in zip(*columns, strict=True)
        ]


def listed(names: Iterable[str]) -> str:
    """Return names for a sentence, in quotes where one could be taken for several or for none."""
    return ", ".join(
        repr(name) if name != name.strip() or not name or {",", "'", '"'} & set(name) else name
        for name in names
    )


def read_table(path: Path | str, role: str = "file") -> DataTable:
    """Read a file by its ending; `role` is the option that named it ("train_file").

    CSV has a header and standard quoting. TSV has a header and no quoting, as the GLUE files: a
    `"` is an ordinary character. JSON lines hold one object a line; a `.json` file may hold an
    array of objects instead.

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
    try:
        if not path.exists():
            raise UserError(f"{role}: {path} does not exist; give the path of an existing file.")
        if not path.is_file():
            raise UserError(f"{role}: {path} is not a file; give the path of a file.")
        if path.stat().st_size == 0:
            raise UserError(f"{role}: {path} is empty; give a file with rows.")
        if reader is not _read_parquet:
            check_is_utf8_text(path, role)
        table = reader(path)
    except PermissionError as error:
        raise UserError(f"{role}: {path} may not be read; change its permissions.") from error
    except OSError as error:
        raise UserError(
            f"{role}: {path} cannot be read ({error.strerror}); give another file."
        ) from error
    except _MalformedError as error:
        raise UserError(f"{role}: {path} {error}.") from error
    if table.rows == 0:
        raise UserError(f"{role}: {path} is empty, it has no rows; give a file with rows.")
    if not table.column_names:
        raise UserError(f"{role}: {path} has rows without any column; give a file with columns.")
    return table


class _MalformedError(Exception):
    """Content that is not of its format; the message continues "train_file: PATH ..."."""


def _table(path: Path, columns: dict[str, list[object]]) -> DataTable:
    rows = len(next(iter(columns.values()), []))
    return DataTable(str(path), tuple(columns), rows, columns.__getitem__)


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
                f"correct that line (a text that holds the separator may need quoting)"
            )
        for name, value in zip(header, row, strict=True):
            columns[name].append(value or None)
    return columns


def _numbered(reader: Any) -> Iterator[tuple[int, list[str]]]:
    for row in reader:
        yield reader.line_num, row


def _with_blanks(rows: Iterator[tuple[int, list[str]]]) -> Iterator[tuple[int, list[str]]]:
    """Leave blank lines out, but for those between the rows of a single column.

    There, a blank line is a row whose value is missing; left out, predictions would no longer stand
    next to their rows.
    """
    is_single: bool | None = None
    blank: list[int] = []
    for number, row in rows:
        if not row:
            blank.append(number)
            continue
        if is_single:
            yield from ((each, [""]) for each in blank)
        blank = []
        # The first row is the header.
        is_single = len(row) == 1 if is_single is None else is_single
        yield number, row


def _read_csv(path: Path) -> DataTable:
    with _open(path) as file, _long_cells():
        # strict: an unclosed quote is an error instead of a text that swallows the file's rest.
        reader = csv.reader(file, strict=True)
        try:
            return _table(path, _columns_of_rows(_with_blanks(_numbered(reader))))
        except csv.Error as error:
            raise _MalformedError(
                f"is not well-formed CSV near line {reader.line_num} ({error}); "
                f"look for an unclosed quote there"
            ) from error


@contextmanager
def _long_cells() -> Iterator[None]:
    """Let csv read long cells; its limit holds for the whole process."""
    before = csv.field_size_limit(_LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _read_tsv(path: Path) -> DataTable:
    with _open(path) as file:
        lines = ((number, line.rstrip("\r\n")) for number, line in enumerate(file, start=1))
        rows = ((number, line.split("\t") if line else []) for number, line in lines)
        return _table(path, _columns_of_rows(_with_blanks(rows)))


def _read_json_lines(
    path: Path, advice: str = "write one complete JSON object a line"
) -> DataTable:
    records: list[dict[str, object]] = []
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                place = f"line {number}"
                record = _parsed(line, place, advice)
                records.append(_object(record, place))
    return _table_of_records(path, records)


def _read_json(path: Path) -> DataTable:
    with _open(path) as file:
        text = file.read()
    if not text.lstrip().startswith("["):
        return _read_json_lines(path, "write an array of objects, or one complete object a line")
    array = _parsed(text, "its array", "write one complete JSON array of objects")
    return _table_of_records(
        path, [_object(record, f"entry {number}") for number, record in enumerate(array, start=1)]
    )


def _parsed(text: str, place: str, advice: str) -> Any:
    """Return a JSON value; `place` is where it is in the file."""
    try:
        value = json.loads(text, object_pairs_hook=_without_repeated_names)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, " if "\n" in text.rstrip() else ""
        raise _MalformedError(
            f"has no valid JSON in {place} ({error.msg}: {where}column {error.colno}); {advice}"
        ) from error
    except RecursionError as error:
        raise _too_deep(place) from error
    except _RepeatedNameError as error:
        raise _MalformedError(
            f"has the name {error.args[0]!r} twice in one object in {place}; remove one of them"
        ) from error
    except ValueError as error:
        # Python reads no integer of more than 4,300 digits.
        raise _MalformedError(
            f"has a number of too many digits in {place}; write it as a text, in quotes"
        ) from error
    if "\\ud" in text.lower() and not is_encodable(value):
        raise _MalformedError(
            f"has half of a surrogate pair (an escape such as \\ud800 alone) in {place}, which is "
            "no character; remove it"
        )
    if text.count("[") + text.count("{") > _DEEPEST and _depth(value) > _DEEPEST:
        raise _too_deep(place)
    return value


def _too_deep(place: str) -> _MalformedError:
    return _MalformedError(
        f"has JSON in {place} that is nested too deeply; write no more than {_DEEPEST} lists and "
        "objects in each other"
    )


def _depth(value: object) -> int:
    """Return how many lists and objects are in each other."""
    level, depth = [value], 0
    while level := [each for each in level if isinstance(each, list | dict)]:
        depth += 1
        level = [
            part for each in level for part in (each.values() if isinstance(each, dict) else each)
        ]
    return depth


class _RepeatedNameError(Exception):
    """A JSON object has a name twice."""


def _without_repeated_names(pairs: list[tuple[str, object]]) -> dict[str, object]:
    record = dict(pairs)
    if len(record) != len(pairs):
        names = [name for name, _ in pairs]
        raise _RepeatedNameError(next(name for name in names if names.count(name) > 1))
    return record


def is_encodable(value: object) -> bool:
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
    shown = json.dumps(record, ensure_ascii=False)
    shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"
    raise _MalformedError(
        f"has {kinds.get(type(record), 'the number ')}{shown} in {place} where an object should "
        "be; write one JSON object for each row"
    )


def _table_of_records(path: Path, records: list[dict[str, object]]) -> DataTable:
    # A dict keeps the order in which names first appear; rows may leave out some of them.
    names = dict.fromkeys(name for record in records for name in record)
    columns = {name: [record.get(name) for record in records] for name in names}
    return DataTable(str(path), tuple(names), len(records), columns.__getitem__)


def _read_parquet(path: Path) -> DataTable:
    parquet = require("pyarrow.parquet", extra="train")
    arrow = require("pyarrow", extra="train")
    try:
        # `read_table` would fail on columns of one name without saying so.
        with parquet.ParquetFile(path) as file:
            table = file.read()
    except PermissionError:
        raise
    except (arrow.ArrowException, OSError) as error:
        raise _MalformedError(
            "is not a complete Parquet file; write it again, or give another format"
        ) from error
    repeated = {name for name in table.column_names if table.column_names.count(name) > 1}
    if repeated:
        raise _MalformedError(f"has more than one column {min(repeated)!r}; rename all but one")
    return DataTable(
        str(path),
        tuple(table.column_names),
        table.num_rows,
        lambda name: _values(table, name, path),
        types={column.name: column.type for column in table.schema},
    )


def _values(table: Any, name: str, path: Path) -> list[object]:
    try:
        values: list[object] = table.column(name).to_pylist()
    # Bytes in a column of text that are no UTF-8, or dates that Python has no form for.
    except (ValueError, OverflowError) as error:
        reason = first_line_of(error)
        raise UserError(
            f"{path}: values of the column {name!r} cannot be read ({reason}); leave the column "
            "out, or write it as text."
        ) from error
    return values


_READERS: dict[str, Callable[[Path], DataTable]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_json_lines,
    ".json": _read_json,
    ".parquet": _read_parquet,
}
