"""The user's own files: CSV, TSV, JSON lines, JSON arrays or Parquet, read into a `DataTable`.

All formats end in the same thing: columns of Python values, None where a value is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lora2.data.tables.delimited import read_csv, read_tsv
from lora2.data.tables.json_rows import table_of_json, table_of_json_lines
from lora2.data.tables.malformed import MalformedError
from lora2.data.tables.parquet import read_parquet
from lora2.data.tables.table import DataTable
from lora2.data.tables.text_encoding import check_is_utf8_text
from lora2.errors import UserError

_READERS: dict[str, Callable[[Path], DataTable]] = {
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".jsonl": table_of_json_lines,
    ".json": table_of_json,
    ".parquet": read_parquet,
}


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
        if reader is not read_parquet:
            check_is_utf8_text(path, role)
        table = reader(path)
    except PermissionError as error:
        raise UserError(f"{role}: {path} may not be read; change its permissions.") from error
    except OSError as error:
        raise UserError(
            f"{role}: {path} cannot be read ({error.strerror}); give another file."
        ) from error
    except MalformedError as error:
        raise UserError(f"{role}: {path} {error}.") from error
    if table.rows == 0:
        raise UserError(f"{role}: {path} is empty, it has no rows; give a file with rows.")
    if not table.column_names:
        raise UserError(f"{role}: {path} has rows without any column; give a file with columns.")
    return table
