"""The texts of a comparison: the user's folder, or MetaMathQA and GSM8K from the hub."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from huggingface_hub import HfApi

from lora2.data.own.text_rows import read_rows
from lora2.data.tables.files import read_table
from lora2.data.tables.hub import load_from_hub
from lora2.errors import UserError
from lora2.support.error_text import first_line_of
from lora2.training.scores.exact_match import share_of_exact
from peft_comparison.accuracy import answer_accuracy, parsed_answer

# PEFT's comparison leaves longer texts out, since they do not fit into its 768 tokens.
_MOST_CHARACTERS = 1300
_VALIDATION_ROWS = 50
_OTHER_ROWS = 100
_TRAIN, _TESTED = "meta-math/MetaMathQA", "openai/gsm8k"
_OTHER = "HuggingFaceFW/finewiki"
_FILES = ("train.jsonl", "validation.jsonl", "test.jsonl")
OTHER_FILE = "other.jsonl"

Row = tuple[str, str]
"""What a model is asked, and what it is to answer."""
# The predictions and right answers of rows.
Accuracy = Callable[[Sequence[str], Sequence[str]], float]


@dataclass(frozen=True)
class TaskData:
    """What is learnt, what is asked, and texts that are not of the task.

    Attributes:
        accuracy: how answers are compared.
        info: where each set is from, as the result file has it.
    """

    train: Sequence[Row]
    validation: Sequence[Row]
    test: Sequence[Row]
    other: Sequence[str]
    accuracy: Accuracy
    info: Mapping[str, Mapping[str, str | None]]


def read_folder(folder: Path) -> TaskData:
    """Read train.jsonl, validation.jsonl and test.jsonl, and other.jsonl with a column `text`.

    Columns are `query` and `response`, of which the numbers after "The answer is" are compared, or
    `prompt` and `completion`, compared to the letter. Without other.jsonl, pages of FineWiki from
    the hub are read.

    Raises:
        UserError: a file or row that cannot be used.
    """
    if not folder.is_dir():
        raise UserError(f"data_dir: {folder} is no folder; give one with {', '.join(_FILES)}.")
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"data_dir: {folder} lacks {' and '.join(missing)}; write rows with query and response,"
            " or with prompt and completion, there."
        )
    train, validation, test = (_read_rows(folder / name) for name in _FILES)
    columns = {kind for kind, _ in (train, validation, test)}
    if len(columns) > 1:
        raise UserError(
            f"data_dir: in {folder} some files have query and response, and some prompt and "
            "completion; write the same in all."
        )
    if columns == {"query"}:
        train = "query", _short_enough(train[1], str(folder / _FILES[0]))
        for name, (_, rows) in zip(_FILES[1:], (validation, test), strict=True):
            _check_answers(rows, str(folder / name))
    present = [name for name in (*_FILES, OTHER_FILE) if (folder / name).is_file()]
    return TaskData(
        train[1],
        validation[1],
        test[1],
        _read_texts(folder / OTHER_FILE) if OTHER_FILE in present else _wiki_pages(folder),
        answer_accuracy if columns == {"query"} else share_of_exact,
        {name: _of_file(folder / name) for name in present},
    )


def load_metamath() -> TaskData:
    """Load what PEFT trains and tests on from the hub: MetaMathQA, then GSM8K.

    Raises:
        UserError: a dataset is neither in the cache nor can be reached.
    """
    learnt = load_from_hub(_TRAIN)["train"]
    asked = load_from_hub(_TESTED, "main")
    order = np.arange(len(asked["train"]))
    # PEFT's comparison chooses its rows by this generator.
    np.random.RandomState(0).shuffle(order)
    return TaskData(
        _short_enough(list(zip(learnt["query"], learnt["response"], strict=True)), _TRAIN),
        _questions(asked["train"].select(order[:_VALIDATION_ROWS])),
        _questions(asked["test"]),
        _wiki_pages(None),
        answer_accuracy,
        {"metamath": _of_hub(_TRAIN), "gsm8k": _of_hub(_TESTED)},
    )


def _read_rows(path: Path) -> tuple[str, list[Row]]:
    """Return the name of the first column, and the rows."""
    table = read_table(path, "data_dir")
    first = "query" if "query" in table.column_names else "prompt"
    columns = ("query", "response") if first == "query" else ("prompt", "completion")
    rows = [tuple(row.values()) for row in read_rows(table, "prompt_completion", columns)]
    if not all(isinstance(text, str) for text in rows[0]):
        raise UserError(
            f"data_dir: {path} holds messages, and PEFT's query_template takes a text; write texts."
        )
    return first, [(str(asked), str(answer)) for asked, answer in rows]


def _read_texts(path: Path) -> list[str]:
    rows = read_rows(read_table(path, "data_dir"), "text", ("text",))
    return [str(row["text"]) for row in rows]


def _short_enough(rows: Sequence[Row], source: str) -> list[Row]:
    short = [row for row in rows if len(" ".join(row)) <= _MOST_CHARACTERS]
    if not short:
        raise UserError(
            f"data_dir: all rows of {source} have more than {_MOST_CHARACTERS} characters, which "
            "PEFT's comparison leaves out; shorten them."
        )
    return short


def _check_answers(rows: Sequence[Row], source: str) -> None:
    for number, (_, response) in enumerate(rows, start=1):
        if parsed_answer(response) is None:
            raise UserError(
                f"data_dir: the response in row {number} of {source} has no answer; end it with "
                '"The answer is: " and the answer, or name the columns prompt and completion to '
                "compare them to the letter."
            )


def _questions(rows: Any) -> list[Row]:
    return list(zip(rows["question"], rows["answer"], strict=True))


def _wiki_pages(folder: Path | None) -> list[str]:
    """Return the texts that PEFT measures forgetting on."""
    try:
        pages = datasets.load_dataset(_OTHER, split="train", streaming=True)
        return [page["text"] for page in pages.take(_OTHER_ROWS)]
    except (OSError, ValueError, RuntimeError) as error:
        reason = first_line_of(error)
        at = "the --data_dir" if folder is None else folder
        raise UserError(
            f"dataset: {_OTHER}, on which forgetting is measured, could not be loaded from the hub "
            f"({reason}); check the network, or write {OTHER_FILE} with other texts into {at}."
        ) from error


def _of_file(path: Path) -> dict[str, str | None]:
    return {"sha": hashlib.sha256(path.read_bytes()).hexdigest(), "created_at": None}


def _of_hub(name: str) -> dict[str, str | None]:
    try:
        info = HfApi().dataset_info(name)
    # Without a network the data came from the cache, which does not say their version.
    except Exception:
        return {"sha": None, "created_at": None}
    return {"sha": info.sha, "created_at": info.created_at and info.created_at.isoformat()}
