"""`lora2 evaluate`: the metrics of a run's adapter, computed again."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lora2.commands.parser import OptionParser
from lora2.reports.console import new_console, print_table
from lora2.reports.tables import metrics_table
from lora2.support.field_types import shortened
from lora2.support.ranges import SIZE
from lora2.training.idle_options import refuse_idle
from lora2.training.loaded_run import SavedRun
from lora2.training.objectives.registry import objective_of
from lora2.training.saved_run import load_saved_run, load_validation


def execute(arguments: Sequence[str]) -> int:
    """Run the subcommand and return the exit code."""
    options = _parser().parse_args(list(arguments))
    if options.file is not None:
        refuse_idle({"data_dir": options.data_dir}, ("data_dir",), "with --file")
    run = load_saved_run(options.run, options.model)
    console = new_console()
    for name, dataset in _datasets(run, options).items():
        metrics = objective_of(run.settings).measure(run, dataset, options.batch_size)
        title = f"{options.run}: {name}, {len(dataset):,} rows"
        console.print(title, soft_wrap=True)
        print_table(console, metrics_table(metrics))
    return 0


def _datasets(run: SavedRun, options: Any) -> dict[str, Any]:
    objective = objective_of(run.settings)
    if options.file is not None:
        return {options.file.name: objective.read_scored_rows(options.file, run.task)}
    validation = load_validation(run, options.data_dir).validation
    return {name: objective.scored_rows(run, rows) for name, rows in validation.items()}


def _parser() -> OptionParser:
    parser = OptionParser(
        prog="lora2 evaluate", description="Compute the metrics of a run's adapter again."
    )
    add_run_options(parser)
    add_batch_size(parser)
    parser.add_argument(
        "--file",
        type=Path,
        help="data with labels or answers, in place of the run's validation data",
    )
    parser.add_argument("--data_dir", "--data-dir", help="where the task's data is now")
    return parser


def add_run_options(parser: OptionParser) -> None:
    """Add the options of all commands that load a run's adapter."""
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a finished run")
    parser.add_argument("--model", help="where the base model is now, if it has moved")


def add_batch_size(parser: OptionParser) -> None:
    """Add the option of commands that work through rows."""
    parser.add_argument(
        "--batch_size",
        "--batch-size",
        type=_at_least_one,
        default=64,
        help="rows at once (default: 64)",
    )


def _at_least_one(text: str) -> int:
    # Python reads no number of more than 4,300 digits.
    if not text.isdecimal() or len(text) > 4300 or not SIZE.holds(int(text)):
        raise argparse.ArgumentTypeError(f"{shortened(text)} is not {SIZE}")
    return int(text)
