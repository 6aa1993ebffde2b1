"""Parquet files as tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lora2.data.tables.malformed import MalformedError, check_names_differ
from lora2.data.tables.table import DataTable
from lora2.errors import UserError
from lora2.support.error_text import first_line_of
from lora2.support.extras import require


def read_parquet(path: Path) -> DataTable:
    """Read a file; a column is made of Python objects when it is asked for.

    Raises:
        MalformedError: it is no such file.
    """
    parquet = require("pyarrow.parquet", extra="train")
    arrow = require("pyarrow", extra="train")
    try:
        # `read_table` would fail on columns of one name without saying so.
        with parquet.ParquetFile(path) as file:
            table = file.read()
    except PermissionError:
        raise
    except (arrow.ArrowException, OSError) as error:
        raise MalformedError(
            "is not a complete Parquet file; write it again, or give another format"
        ) from error
    check_names_differ(table.column_names)
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
    # Bytes in a column of text are not UTF-8, or Python has no form for a date.
    except (ValueError, OverflowError) as error:
        reason = first_line_of(error)
        raise UserError(
            f"{path}: values of the column {name!r} cannot be read ({reason}); leave the column "
            "out, or write it as text."
        ) from error
    return values
