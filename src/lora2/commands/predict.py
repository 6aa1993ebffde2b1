"""`lora2 predict`: labels for texts, from the command line or a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from lora2.commands.evaluate import add_batch_size, add_run_options
from lora2.commands.parser import OptionParser
from lora2.data import load_texts
from lora2.data.task import build_dataset
from lora2.errors import UserError
from lora2.support.files import write_atomically
from lora2.training.saved_run import SavedRun, load_saved_run


def execute(arguments: Sequence[str]) -> int:
    """Run the subcommand and return the exit code."""
    options = _parser().parse_args(list(arguments))
    if (options.text is None) == (options.file is None):
        raise UserError("predict: give either --text or --file, and not both.")
    if options.output is not None and not options.output.parent.is_dir():
        raise UserError(
            f"output: the folder {options.output.parent} does not exist; make it first."
        )
    run = load_saved_run(options.run, options.model, "classification")
    dataset = _texts(run, options)
    predictions = predict(run, dataset, options.batch_size)
    lines = [json.dumps(prediction, ensure_ascii=False) for prediction in predictions]
    if options.output is None:
        print("\n".join(lines))
    else:
        write_atomically(options.output, "".join(f"{line}\n" for line in lines))
        print(f"{len(lines):,} predictions written to {options.output}")
    return 0


def predict(run: SavedRun, dataset: Any, batch_size: int = 64) -> list[dict[str, Any]]:
    """Return one record a row: its texts, with the label and all probabilities, or the value."""
    logits = run.logits(dataset, batch_size)
    names = run.task["label_names"]
    read = _class_of if names else _value_of
    return [
        {**text, **read(row, names)} for text, row in zip(dataset.to_list(), logits, strict=True)
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
    if options.file is not None:
        return load_texts(options.file, columns)
    texts = [options.text] if options.text_pair is None else [options.text, options.text_pair]
    if len(texts) != len(columns):
        mend = "add --text_pair" if len(columns) == 2 else "leave --text_pair out"
        raise UserError(f"text_pair: the run was trained on {' and '.join(columns)}; {mend}.")
    return build_dataset([[text] for text in texts], labels=None)


def _parser() -> OptionParser:
    parser = OptionParser(prog="lora2 predict", description="Label texts with a run's adapter.")
    add_run_options(parser)
    add_batch_size(parser)
    parser.add_argument("--text", help="one text")
    parser.add_argument("--text_pair", "--text-pair", help="its second text, for tasks on pairs")
    parser.add_argument("--file", type=Path, help="a file with the text columns of the run's data")
    parser.add_argument("--output", type=Path, help="JSON lines file to write, else the terminal")
    return parser
