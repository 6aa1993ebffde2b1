"""`lora2 evaluate`: the metrics of a run's adapter, computed again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lora2.commands.option_parser import OptionParser
from lora2.commands.run_options import add_batch_size, add_run_options
from lora2.reports.console import new_console, print_table
from lora2.reports.tables import metrics_table
from lora2.training.finished_run.loaded_run import LoadedRun
from lora2.training.objectives.registry import objective_of
from lora2.training.options.idle_options import refuse_idle
from lora2.training.run_loading import load_saved_run, load_validation


def execute(arguments: Sequence[str]) -> int:
    """Run the subcommand and return the exit code."""
    options = _parser().parse_args(list(arguments))
    if options.file is not None:
        refuse_idle({"data_dir": options.data_dir}, ("data_dir",), "with --file")
    run = load_saved_run(options.run, options.model)
    console = new_console()
    for name, dataset in _datasets(run, options).items():
        measured = objective_of(run.settings).measure(run, dataset, options.batch_size)
        title = f"{options.run}: {name}, {len(dataset) - measured.left_out:,} rows"
        if measured.left_out:
            length = run.settings.data.max_length
            title += (
                f" (left out: {measured.left_out:,}, because max_length={length} cuts off all "
                "that is scored)"
            )
        console.print(title, soft_wrap=True)
        print_table(console, metrics_table(measured.metrics))
    return 0


def _datasets(run: LoadedRun, options: Any) -> dict[str, Any]:
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
    parser.add_argument("--data_dir", help="where the task's data is now")
    return parser
