"""`lora2 evaluate`: the metrics of a run's adapter, computed again."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import EvalPrediction

from lora2.commands.parser import OptionParser
from lora2.data import load_labelled, load_text_rows
from lora2.data.text_loading import EXACT_MATCH
from lora2.data.text_task import prompt_and_answer
from lora2.reports.console import new_console, print_table
from lora2.reports.tables import metrics_table
from lora2.training.exact_match import exact_match, questions_in
from lora2.training.metrics import compute_metrics
from lora2.training.option_effects import refuse_idle
from lora2.training.saved_run import SavedRun, load_saved_run, load_validation


def execute(arguments: Sequence[str]) -> int:
    """Run the subcommand and return the exit code."""
    options = _parser().parse_args(list(arguments))
    if options.file is not None:
        refuse_idle({"data_dir": options.data_dir}, ("data_dir",), "with --file")
    run = load_saved_run(options.run, options.model)
    console = new_console()
    for name, dataset in _datasets(run, options).items():
        metrics = evaluate(run, dataset, options.batch_size)
        title = f"{options.run}: {name}, {len(dataset):,} rows"
        console.print(title, soft_wrap=True)
        print_table(console, metrics_table(metrics))
    return 0


def evaluate(run: SavedRun, dataset: Any, batch_size: int) -> dict[str, float]:
    """Return the metrics of the task on rows with labels or answers."""
    if run.settings.objective == "sft":
        return {EXACT_MATCH: exact_match_of(run, dataset, batch_size)}
    logits = run.logits(dataset, batch_size).numpy()
    labels = dataset.with_format("numpy")["label"][:]
    return compute_metrics(run.task["metrics"])(EvalPrediction(logits, labels))


def exact_match_of(run: SavedRun, rows: Any, batch_size: int) -> float:
    """Return the share of rows whose prompt is answered exactly right.

    Raises:
        UserError: no row has an answer.
    """
    return exact_match(
        run.model,
        run.tokenizer,
        questions_in(rows),
        max_new_tokens=run.settings.text.max_new_tokens,
        batch_size=batch_size,
    )


def _datasets(run: SavedRun, options: Any) -> dict[str, Any]:
    if options.file is None:
        return {
            name: _as_in_training(run, rows)
            for name, rows in load_validation(run, options.data_dir).validation.items()
        }
    if run.settings.objective == "sft":
        return {options.file.name: load_text_rows(options.file, run.task)}
    dataset = load_labelled(
        options.file,
        text_columns=run.task["text_columns"],
        label_column=run.task["label_column"],
        kind=run.task["kind"],
        label_names=run.task["label_names"],
    )
    return {options.file.name: dataset}


def _as_in_training(run: SavedRun, rows: Any) -> Any:
    """Return the validation rows that the run was scored on: of texts, the first with an answer."""
    if run.settings.objective != "sft":
        return rows
    answered = [index for index, row in enumerate(rows) if prompt_and_answer(row) is not None]
    return rows.select(answered[: run.settings.text.exact_match_rows or None])


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
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)
