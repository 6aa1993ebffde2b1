"""`lora2 predict`: labels for texts, words or images, from the command line or a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lora2.commands.added_columns import result_names
from lora2.commands.option_parser import OptionParser
from lora2.commands.output_option import (
    add_output,
    check_output_option,
    check_rows,
    print_records,
    write_records,
)
from lora2.commands.run_options import add_batch_size, add_run_options
from lora2.data.tables.writing import OutputRow, as_table_file, is_flat
from lora2.errors import UserError
from lora2.training.finished_run.loaded_run import LoadedRun
from lora2.training.objectives.labelling import Labelling, ToLabel
from lora2.training.objectives.registry import objective_of
from lora2.training.on_disk.run_folder import RunFolder
from lora2.training.options.arguments import RunSettings
from lora2.training.run_loading import load_saved_run


def execute(arguments: Sequence[str]) -> int:
    """Run the subcommand and return the exit code."""
    options = _parser().parse_args(list(arguments))
    _check(options)
    objective = _objective(options)
    table = None if options.file is None else objective.read_table(options.file)
    if table is not None:
        check_rows(table, options, objective.records(table))
    run = load_saved_run(options.run, options.model)
    if table is None:
        given = objective.from_text(run, options.text, options.text_pair)
    else:
        given = objective.from_table(run, table)
    records = _with_results(objective, run, given, options)
    if options.output is None:
        print_records(records)
    else:
        write_records(records, options, "predictions", table.types if table is not None else {})
    return 0


def _objective(options: Any) -> Labelling:
    """Return the objective of a run, which says how its rows are read."""
    settings = RunSettings.from_options(RunFolder(options.run).read_options())
    objective = objective_of(settings)
    if not isinstance(objective, Labelling):
        raise UserError(f"run: {options.run} {objective.output.instead}.")
    return objective


def _with_results(
    objective: Labelling, run: LoadedRun, given: ToLabel, options: Any
) -> list[OutputRow]:
    """Return rows with what was found of each after their own columns."""
    flat = is_flat(options.output)
    names = result_names(given.records[0], objective.columns(run, given, flat))
    if options.output is not None:
        # A name of a label that the format has no form for is found before the work.
        as_table_file([dict.fromkeys(names)], options.output)
    found = objective.found(run, given, options.batch_size, flat)
    return [
        row | dict(zip(names, cells, strict=True))
        for row, cells in zip(given.records, found, strict=True)
    ]


def _check(options: Any) -> None:
    if (options.text is None) == (options.file is None):
        raise UserError("predict: give either --text or --file, and not both.")
    if options.text_pair is not None and options.file is not None:
        raise UserError("text_pair: it goes with --text; leave it out, since --file has the pairs.")
    check_output_option(options)


def _parser() -> OptionParser:
    parser = OptionParser(prog="lora2 predict", description="Label texts with a run's adapter.")
    add_run_options(parser)
    add_batch_size(parser)
    parser.add_argument("--text", help="one text")
    parser.add_argument("--text_pair", help="its second text, for tasks on pairs")
    parser.add_argument(
        "--file",
        type=Path,
        help="a file with the columns of the run's data; of images also a folder, or one image",
    )
    add_output(parser)
    return parser
