"""One entry to all data for language models: rewrite, SNIPS, or the user's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from lora2.data.builtin import rewrite
from lora2.data.builtin.drawing import Split
from lora2.data.builtin.rewrite import rewrite_pairs
from lora2.data.named_tasks import WRITTEN_ROWS, task_names
from lora2.data.own.named_or_own import is_named
from lora2.data.own.source import OwnSource, own_tables
from lora2.data.own.splitting import split_off_validation
from lora2.data.own.text_rows import choose_form, read_rows
from lora2.data.public import snips
from lora2.data.tables.files import read_table
from lora2.data.tables.table import DataTable
from lora2.data.tasks.metric_names import EXACT_MATCH, TOKEN_ACCURACY
from lora2.data.tasks.writing_task import FORMS, TO_WRITE, Form, WritingTask
from lora2.errors import UserError
from lora2.support.extras import require

if TYPE_CHECKING:
    from datasets import Dataset


# Rows are half quantities, of which there are some five thousand, four in five for training.
_LARGEST: dict[Split, int] = {"train": 6000, "validation": 1500}


def load_text_task(
    task: str | None = None,
    *,
    data_dir: Path | str | None = None,
    text_columns: Sequence[str] | None = None,
    train_rows: int = WRITTEN_ROWS["train"],
    validation_rows: int = WRITTEN_ROWS["validation"],
    exact_match: bool = False,
    data_seed: int = 0,
    forms: Sequence[Form] = TO_WRITE,
    **source: Unpack[OwnSource],
) -> WritingTask:
    """Load a named task, the user's files, or a hub dataset; rewrite if nothing is named.

    Args:
        task: the name of a task of sft.
        data_dir: folder of the files of SNIPS.
        text_columns: `messages`, `prompt` and `completion`, or one column of texts; guessed if
            obvious.
        train_rows: of a named task.
        validation_rows: likewise.
        exact_match: whether answers are generated and compared with the right ones.
        data_seed: generates rewrite, draws the rows of SNIPS and splits off validation rows.
        forms: those that the user's rows may have.
        source: of the user's own data, as `OwnSource` says.

    Raises:
        UserError: options that contradict each other, or data that cannot be used.
    """
    own = {
        **source,
        "text_columns": text_columns,
    }
    if is_named(task, task_names("sft"), "texts to write", own):
        wanted: dict[Split, int] = {"train": train_rows, "validation": validation_rows}
        return _named_task(task or task_names("sft")[0], data_dir, wanted, exact_match, data_seed)
    if data_dir is not None:
        raise UserError(
            "data_dir: it is the folder of SNIPS and does not go with data of your own; leave one "
            "of the two out."
        )
    name, train, validation = own_tables(source)
    return _own_task(name, train, validation, text_columns, exact_match, data_seed, forms)


def load_text_rows(path: Path | str, task: Mapping[str, Any]) -> Dataset:
    """Read another file for a task that is already known, by its description.

    Raises:
        UserError: a file, column or row that cannot be used.
    """
    rows = read_rows(read_table(path), task["form"], task["columns"], task["conversational"])
    return rows_as_dataset(rows)


def _own_task(
    name: str,
    train: DataTable,
    validation: DataTable | None,
    text_columns: Sequence[str] | None,
    exact_match: bool,
    data_seed: int,
    forms: Sequence[Form],
) -> WritingTask:
    form, columns = choose_form(train, text_columns, forms)
    if exact_match and form == "text":
        raise UserError(
            f"exact_match_rows: the rows of {train.source} are plain text and have no answers to "
            "compare with; write 0, or give prompts with completions."
        )
    rows = read_rows(train, form, columns)
    conversational = not isinstance(rows[0][FORMS[form].columns[0]], str)
    if validation is None:
        train_set, validation_set = split_off_validation(
            rows_as_dataset(rows), train.source, data_seed
        )
    else:
        train_set = rows_as_dataset(rows)
        more = read_rows(validation, form, columns, conversational)
        validation_set = rows_as_dataset(more)
    return WritingTask(
        name=name,
        train=train_set,
        validation={"validation": validation_set},
        metrics=(metrics := _metrics(exact_match)),
        main_metric=metrics[0],
        form=form,
        conversational=conversational,
        system=_common_system(rows, form),
        columns=columns,
    )


def _metrics(exact_match: bool) -> tuple[str, ...]:
    return (EXACT_MATCH, TOKEN_ACCURACY) if exact_match else (TOKEN_ACCURACY,)


def _common_system(rows: Sequence[Mapping[str, Any]], form: Form) -> str | None:
    first_column = FORMS[form].columns[0]
    systems = set()
    for row in rows:
        if isinstance(row[first_column], str):
            return None
        first = row[first_column][0]
        systems.add(first["content"] if first["role"] == "system" else None)
    return systems.pop() if len(systems) == 1 else None


def _named_task(
    name: str,
    data_dir: Path | str | None,
    wanted: Mapping[Split, int],
    exact_match: bool,
    data_seed: int,
) -> WritingTask:
    pairs, system = _PAIRS[name](data_dir, wanted, data_seed)
    sets = {
        split: rows_as_dataset([_conversation(system, *pair) for pair in of_split])
        for split, of_split in pairs.items()
    }
    return WritingTask(
        name=name,
        train=sets["train"],
        validation={"validation": sets["validation"]},
        metrics=(metrics := _metrics(exact_match)),
        main_metric=metrics[0],
        form="prompt_completion",
        conversational=True,
        system=system,
        columns=FORMS["prompt_completion"].columns,
    )


def _rewrite(data_dir: Path | str | None, wanted: Mapping[Split, int], data_seed: int) -> _Pairs:
    if data_dir is not None:
        raise UserError(
            f"data_dir: {data_dir} is of no use to the generated task rewrite; leave it out, or "
            "write --task snips."
        )
    sizes = rewrite_sizes(wanted["train"], wanted["validation"], "rewrite")
    pairs = {split: rewrite_pairs(split, rows, data_seed) for split, rows in sizes.items()}
    return pairs, rewrite.SYSTEM


def _snips(data_dir: Path | str | None, wanted: Mapping[Split, int], data_seed: int) -> _Pairs:
    if data_dir is None:
        raise UserError(
            "data_dir: the task snips is read from files; give the folder that holds its "
            "train.jsonl and validation.jsonl."
        )
    pairs = {
        split: snips.snips_pairs(data_dir, split, rows, data_seed) for split, rows in wanted.items()
    }
    return pairs, snips.SYSTEM


_Pairs = tuple[dict[Split, list[tuple[str, str]]], str]
_PAIRS: Mapping[str, Callable[[Path | str | None, Mapping[Split, int], int], _Pairs]] = {
    "rewrite": _rewrite,
    "snips": _snips,
}
"""What makes the texts of a named task, each with its right answer, and its system message."""


def rewrite_sizes(train: int, validation: int, task: str) -> dict[Split, int]:
    """Return the numbers of rows by split, of a task that is made of `rewrite_pairs`.

    Raises:
        UserError: there are not as many.
    """
    sizes: dict[Split, int] = {"train": train, "validation": validation}
    for split, rows in sizes.items():
        if not 1 <= rows <= _LARGEST[split]:
            raise UserError(
                f"{split}_rows: got {rows}; write a number from 1 to {_LARGEST[split]:,}, the "
                f"different rows that {task} has."
            )
    return sizes


def _conversation(system: str, text: str, answer: str) -> dict[str, Any]:
    return {
        "prompt": [{"role": "system", "content": system}, {"role": "user", "content": text}],
        "completion": [{"role": "assistant", "content": answer}],
    }


def rows_as_dataset(rows: list[dict[str, Any]]) -> Dataset:
    """Return rows as a dataset."""
    made: Dataset = require("datasets", extra="train").Dataset.from_list(rows)
    return made
