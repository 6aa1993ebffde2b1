"""`lora2 predict`: labels for texts, from the command line or a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from lora2.commands.evaluate import add_batch_size, add_run_options
from lora2.commands.output_option import (
    add_output,
    check_output_option,
    check_rows,
    print_records,
    write_records,
)
from lora2.commands.parser import OptionParser
from lora2.commands.result_names import result_names
from lora2.data import read_table, texts_of
from lora2.data.table_files import DataTable
from lora2.data.table_writing import OutputRow, as_table_file, is_flat
from lora2.data.task import build_dataset
from lora2.errors import UserError
from lora2.training.loaded_run import SavedRun
from lora2.training.objectives.output import LABELS
from lora2.training.saved_run import load_saved_run


def execute(arguments: Sequence[str]) -> int:
    """Run the subcommand and return the exit code."""
    options = _parser().parse_args(list(arguments))
    _check(options)
    table = None if options.file is None else read_table(options.file)
    if table is not None:
        check_rows(table, options)
    run = load_saved_run(options.run, options.model, LABELS)
    records = _of_texts(run, options) if table is None else _of_table(run, table, options)
    if options.output is None:
        print_records(records)
    else:
        write_records(records, options, "predictions", table.types if table is not None else {})
    return 0


def predict(run: SavedRun, dataset: Any, batch_size: int = 64) -> list[OutputRow]:
    """Return one record a row: the label and all probabilities, or the value."""
    logits = run.logits(dataset, batch_size)
    names = run.task["label_names"]
    read = _class_of if names else _value_of
    return [read(row, names) for row in logits]


def _of_texts(run: SavedRun, options: Any) -> list[OutputRow]:
    dataset = _texts(run, options)
    return _with_predictions(run, dataset.to_list(), dataset, options)


def _of_table(run: SavedRun, table: DataTable, options: Any) -> list[OutputRow]:
    """Return the rows of a file, all columns, with what was predicted for each."""
    dataset = texts_of(table, run.task["text_columns"])
    return _with_predictions(run, table.records(), dataset, options)


def _with_predictions(
    run: SavedRun, rows: Sequence[OutputRow], dataset: Any, options: Any
) -> list[OutputRow]:
    """Return rows with what was predicted for each after their own columns."""
    flat = is_flat(options.output)
    added = _added(run.task["label_names"], flat)
    names = result_names(rows[0], added)
    if options.output is not None:
        # A name of a label that the format has no form for is found before the work.
        as_table_file([dict.fromkeys(names)], options.output)
    return [
        row | dict(zip(names, _cells(read, flat), strict=True))
        for row, read in zip(rows, predict(run, dataset, options.batch_size), strict=True)
    ]


def _added(label_names: Sequence[str], flat: bool) -> list[str]:
    """Return the names of the result's columns: in flat formats, each class has its own."""
    if not label_names:
        return ["value"]
    classes = [f"probabilities_{name}" for name in label_names] if flat else ["probabilities"]
    return ["label", *classes]


def _cells(prediction: OutputRow, flat: bool) -> list[Any]:
    first, *rest = prediction.values()
    return [first, *rest[0].values()] if flat and rest else [first, *rest]


def _class_of(logits: Tensor, names: Sequence[str]) -> OutputRow:
    probabilities = [round(value, 6) for value in logits.softmax(0).tolist()]
    return {
        "label": names[int(logits.argmax())],
        "probabilities": dict(zip(names, probabilities, strict=True)),
    }


def _value_of(logits: Tensor, names: Sequence[str]) -> OutputRow:
    return {"value": round(float(logits[0]), 6)}


def _texts(run: SavedRun, options: Any) -> Any:
    columns = run.task["text_columns"]
    texts = [options.text] if options.text_pair is None else [options.text, options.text_pair]
    if len(texts) != len(columns):
        advice = "add --text_pair" if len(columns) == 2 else "leave --text_pair out"
        raise UserError(f"text_pair: the run was trained on {' and '.join(columns)}; {advice}.")
    return build_dataset([[text] for text in texts], labels=None)


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
    parser.add_argument("--text_pair", "--text-pair", help="its second text, for tasks on pairs")
    parser.add_argument("--file", type=Path, help="a file with the text columns of the run's data")
    add_output(parser)
    return parser
