"""`lora2 predict`: labels for texts, from the command line or a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from lora2.commands.evaluate import add_batch_size, add_run_options
from lora2.commands.parser import OptionParser
from lora2.commands.result_names import result_names
from lora2.data import as_table_file, check_ending, read_table, texts_of
from lora2.data.table_files import Table
from lora2.data.table_writing import as_json
from lora2.data.task import build_dataset
from lora2.errors import UserError
from lora2.files import check_output, write_output
from lora2.training.saved_run import SavedRun, load_saved_run


def execute(arguments: Sequence[str]) -> int:
    """Run the subcommand and return the exit code."""
    options = _parser().parse_args(list(arguments))
    _check(options)
    table = None if options.file is None else read_table(options.file)
    run = load_saved_run(options.run, options.model, "classification")
    records = _of_texts(run, options) if table is None else _of_table(run, table, options)
    if options.output is None:
        for record in records:
            print(as_json(record))
        return 0
    content = as_table_file(records, options.output)
    write_output(options.output, content, overwrite=options.overwrite, inputs=_inputs(options))
    if not options.output.is_relative_to("/dev"):
        print(f"{len(records):,} predictions written to {options.output}")
    return 0


def predict(run: SavedRun, dataset: Any, batch_size: int = 64) -> list[dict[str, Any]]:
    """Return one record a row: the label and all probabilities, or the value."""
    logits = run.logits(dataset, batch_size)
    names = run.task["label_names"]
    read = _class_of if names else _value_of
    return [read(row, names) for row in logits]


def _of_texts(run: SavedRun, options: Any) -> list[dict[str, Any]]:
    dataset = _texts(run, options)
    predictions = predict(run, dataset, options.batch_size)
    return [text | read for text, read in zip(dataset.to_list(), predictions, strict=True)]


def _of_table(run: SavedRun, table: Table, options: Any) -> list[dict[str, Any]]:
    """Return the rows of a file, all columns, with what was predicted for each."""
    added = ["label", "probabilities"] if run.task["label_names"] else ["value"]
    names = result_names(table.column_names, added)
    dataset = texts_of(table, run.task["text_columns"])
    return [
        row | dict(zip(names, read.values(), strict=True))
        for row, read in zip(
            table.records(), predict(run, dataset, options.batch_size), strict=True
        )
    ]


def _class_of(logits: Tensor, names: Sequence[str]) -> dict[str, Any]:
    probabilities = [round(value, 6) for value in logits.softmax(0).tolist()]
    return {
        "label": names[int(logits.argmax())],
        "probabilities": dict(zip(names, probabilities, strict=True)),
    }


def _value_of(logits: Tensor, names: Sequence[str]) -> dict[str, Any]:
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
    if options.overwrite and options.output is None:
        raise UserError("overwrite: it is for --output; leave it out, or add --output.")
    if options.output is not None:
        check_ending(options.output)
        check_output(options.output, overwrite=options.overwrite, inputs=_inputs(options))


def _inputs(options: Any) -> list[Path]:
    return [] if options.file is None else [options.file]


def _parser() -> OptionParser:
    parser = OptionParser(prog="lora2 predict", description="Label texts with a run's adapter.")
    add_run_options(parser)
    add_batch_size(parser)
    parser.add_argument("--text", help="one text")
    parser.add_argument("--text_pair", "--text-pair", help="its second text, for tasks on pairs")
    parser.add_argument("--file", type=Path, help="a file with the text columns of the run's data")
    add_output(parser)
    return parser


def add_output(parser: OptionParser) -> None:
    """Add the options of commands that write one record a row."""
    parser.add_argument(
        "--output",
        type=Path,
        help="file to write, of the format that its ending names (.csv, .tsv, .jsonl, .json, "
        ".parquet); without it, JSON lines on standard output",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the file of --output if it exists"
    )
