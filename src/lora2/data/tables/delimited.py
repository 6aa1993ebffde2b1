"""CSV and TSV as tables.

Words such as "NA", "null" or "None" are text; only an empty field is a missing value.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lora2.data.tables.malformed import MalformedError, check_names_differ
from lora2.data.tables.table import DataTable
from lora2.data.tables.text_encoding import open_text

# A cell may be a whole document. The limit of Python's csv is 128 KiB; this is a C long's on every
# system.
_LONGEST_CELL = 2**31 - 1
# This may be wrong with a line of too many or too few fields.
_OF_CSV = "a text that holds the separator may need quoting"
_OF_TSV = "no text of TSV may hold a tab or a line break; CSV can quote them"


def read_csv(path: Path) -> DataTable:
    """Read a file with a header and standard quoting.

    Raises:
        MalformedError: it is no such file.
    """
    with open_text(path) as file, _long_cells():
        # strict: an unclosed quote is an error instead of a text that swallows the file's rest.
        reader = csv.reader(file, strict=True)
        try:
            return _table(path, _columns_of_rows(_with_blanks(_numbered(reader)), _OF_CSV))
        except csv.Error as error:
            raise MalformedError(
                f"is not well-formed CSV near line {reader.line_num} ({error}); "
                f"look for an unclosed quote there"
            ) from error


def read_tsv(path: Path) -> DataTable:
    """Read a file with a header and no quoting, as the GLUE files: a `"` is an ordinary character.

    Raises:
        MalformedError: it is no such file.
    """
    with open_text(path, _line_break(path)) as file:
        lines = ((number, _without_break(line)) for number, line in enumerate(file, start=1))
        rows = ((number, line.split("\t") if line else []) for number, line in lines)
        return _table(path, _columns_of_rows(_with_blanks(rows), _OF_TSV))


def _line_break(path: Path) -> str:
    """Return what ends the lines of TSV, where a text may hold a lone carriage return."""
    with open_text(path, "\n") as file:
        # No name of a column has one, so that a header with one is of a file with no other breaks.
        return "" if "\r" in _without_break(file.readline()) else "\n"


def _without_break(line: str) -> str:
    return line.removesuffix("\n").removesuffix("\r")


def _table(path: Path, columns: dict[str, list[object]]) -> DataTable:
    rows = len(next(iter(columns.values()), []))
    return DataTable(str(path), tuple(columns), rows, columns.__getitem__)


def _columns_of_rows(rows: Iterator[tuple[int, list[str]]], advice: str) -> dict[str, list[object]]:
    """Turn a header and rows, each with its line number, into columns; advice: of other counts."""
    _, header = next(rows, (0, []))
    check_names_differ(header)
    columns: dict[str, list[object]] = {name: [] for name in header}
    for line_number, row in rows:
        if len(row) != len(header):
            found = f"{len(row)} field{'' if len(row) == 1 else 's'}"
            raise MalformedError(
                f"has {found} in line {line_number} but {len(header)} in its header; "
                f"correct that line ({advice})"
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


@contextmanager
def _long_cells() -> Iterator[None]:
    """Let csv read long cells; its limit holds for the whole process."""
    before = csv.field_size_limit(_LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)
