"""The options --output and --overwrite of commands that write one record a row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lora2.commands.option_parser import OptionParser
from lora2.commands.output_file import check_output, is_regular, write_output
from lora2.data.tables.table import DataTable
from lora2.data.tables.writing import (
    OutputRow,
    as_json,
    as_table_file,
    check_ending,
    check_has_no_bytes,
)
from lora2.errors import UserError
from lora2.training.on_disk.run_folder import RunFolder
from lora2_cli.standard_output import can_be_shown


def add_output(parser: OptionParser) -> None:
    """Add the options."""
    parser.add_argument(
        "--output",
        type=Path,
        help="file to write, of the format that its ending names (.csv, .tsv, .jsonl, .json, "
        ".parquet); without it, JSON lines on standard output",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the file of --output if it exists"
    )


def check_output_option(options: Any) -> None:
    """Check, before any work, that the file of --output may be written.

    Raises:
        UserError: it may not, or --overwrite was given without it.
    """
    if options.output is None:
        if options.overwrite:
            raise UserError("overwrite: it is for --output; leave it out, or add --output.")
        return
    if str(options.output) == "-":
        raise UserError("output: - is no file; leave --output out to write to standard output.")
    check_output(options.output, overwrite=options.overwrite, inputs=_inputs(options))
    if is_regular(options.output):
        check_ending(options.output)


def check_rows(table: DataTable, options: Any, records: Sequence[OutputRow] | None = None) -> None:
    """Check, before any work, that what is written to has a form for the rows of a file.

    records: the rows, where some of their cells are written otherwise.

    Raises:
        UserError: it has none.
    """
    rows = table.records() if records is None else records
    if options.output is None:
        check_has_no_bytes(rows, "standard output")
    else:
        as_table_file(rows, options.output, table.types)


def print_records(records: Iterable[OutputRow]) -> None:
    """Print one record a line, as each comes; escaped if the encoding lacks a character."""
    for record in records:
        line = as_json(record)
        print(line if can_be_shown(line) else as_json(record, ascii_only=True), flush=True)


def write_records(records: Sequence[OutputRow], options: Any, what: str, types: Any) -> None:
    """Write all records to the file of --output, and say so; types: of columns, by their names."""
    content = as_table_file(records, options.output, types)
    write_output(options.output, content, overwrite=options.overwrite, inputs=_inputs(options))
    if is_regular(options.output):
        print(f"{len(records):,} {what} written to {options.output}")


def _inputs(options: Any) -> list[Path]:
    """Return what the output must not replace: the data, all of the run, and its base model."""
    run = RunFolder(options.run)
    parts = [*run.entries, Path(options.model or run.read_options()["model"])]
    return parts if options.file is None else [options.file, *parts]
