"""One entry to all data of tags: appointments, or the user's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from lora2.data.builtin.appointments import tagged_sentences
from lora2.data.builtin.drawing import Split
from lora2.data.named_tasks import task_names
from lora2.data.own.columns import sorted_label_names
from lora2.data.own.label_spelling import difference_of, first_alike, look_of
from lora2.data.own.named_or_own import is_named
from lora2.data.own.source import OwnSource, own_tables
from lora2.data.own.splitting import split_off_validation
from lora2.data.own.tagged_rows import (
    TaggedRows,
    choose_columns,
    form_of,
    read_tagged,
)
from lora2.data.tables.files import read_table
from lora2.data.tables.table import DataTable, listed
from lora2.data.tasks.bio import is_tag, tag_names, type_of
from lora2.data.tasks.metric_names import TAG_METRICS
from lora2.data.tasks.tagged_task import RowsOf, TaggedTask, build_tagged
from lora2.errors import UserError
from lora2.support.shown_values import as_shown

if TYPE_CHECKING:
    from datasets import Dataset

_SIZES: dict[Split, int] = {"train": 1000, "validation": 300}


def load_tagged_task(
    task: str | None = None,
    *,
    text_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    data_seed: int = 0,
    **source: Unpack[OwnSource],
) -> TaggedTask:
    """Load a named task, the user's files, or a hub dataset; appointments if nothing is named.

    Args:
        task: the name of a task of token-classification.
        text_columns: the column of words or of texts; guessed if obvious.
        label_column: the column of tags or of spans; guessed if obvious.
        data_seed: generates appointments and splits off validation rows.
        source: of the user's own data, as `OwnSource` says.

    Raises:
        UserError: options that contradict each other, or data that cannot be used.
    """
    own = {
        **source,
        "text_columns": text_columns,
        "label_column": label_column,
    }
    if is_named(task, task_names("token-classification"), "tags", own):
        return _appointments(data_seed)
    name, train, validation = own_tables(source)
    text, label = choose_columns(train, text_columns, label_column)
    rows_of = form_of(train, text)
    rows = read_tagged(train, rows_of, text, label)
    label_names = _label_names(train, label, rows.tags)
    train_set = _encoded(train, label, rows, label_names)
    if validation is None:
        types = [{type_of(tag) for tag in row} - {None} for row in rows.tags]
        train_set, validation_set = split_off_validation(train_set, train.source, data_seed, types)
    else:
        more = read_tagged(validation, rows_of, text, label)
        validation_set = _encoded(validation, label, more, label_names)
    return _task(name, train_set, validation_set, rows_of, (text, label), label_names)


def load_tagged_rows(path: Path | str, task: Mapping[str, Any]) -> Dataset:
    """Read another file with tags or spans for a task that is already known, by its description.

    Raises:
        UserError: a file, column or row that cannot be used.
    """
    table, column = read_table(path), task["label_column"]
    rows = read_tagged(table, task["rows_of"], task["text_columns"][0], column)
    return _encoded(table, column, rows, task["label_names"])


def _label_names(table: DataTable, column: str, tags: Sequence[Sequence[str]]) -> tuple[str, ...]:
    types = list(dict.fromkeys(each for row in tags for each in map(type_of, row) if each))
    if not types:
        raise UserError(
            f"label_column: column {column!r} of {table.source} marks no entity, so there is "
            "nothing to learn; name a column with entities."
        )
    alike = first_alike(types)
    if alike is not None:
        row = next(row for row, found in enumerate(tags) if alike[1] in map(type_of, found))
        raise UserError(
            f"label_column: column {column!r} of {table.source} has entities of the types "
            f"{as_shown(alike[0])} and {as_shown(alike[1])} (row {row + 1}), "
            f"{difference_of(*alike)}."
        )
    # A hub dataset may name types that its training rows lack.
    named = table.class_names.get(column, ())
    more = {type_of(name) for name in named if is_tag(name)} - {None}
    return tag_names(sorted_label_names([str(each) for each in {*types, *more}]))


def _encoded(
    table: DataTable, column: str, rows: TaggedRows, label_names: Sequence[str]
) -> Dataset:
    index = {name: position for position, name in enumerate(label_names)}
    for number, tags in enumerate(rows.tags, start=1):
        for tag in tags:
            if tag not in index:
                place = f"column {column!r}, row {number} of {table.source}"
                raise UserError(_refusal(str(type_of(tag)), place, label_names))
    return build_tagged(rows.tokens, [[index[tag] for tag in tags] for tags in rows.tags])


def _refusal(unknown: str, place: str, label_names: Sequence[str]) -> str:
    """Return the sentence for a type of entity that training has not seen."""
    types = [str(each) for each in dict.fromkeys(map(type_of, label_names[1:]))]
    alike = next((each for each in types if look_of(each) == look_of(unknown)), None)
    if alike is not None:
        return (
            f"label_column: {place} has an entity of the type {unknown!r}, and the training data "
            f"has {alike!r}, {difference_of(alike, unknown)}."
        )
    return (
        f"label_column: {place} has an entity of the type {unknown!r}, which the training data "
        f"lacks; its types are {listed(types)}; correct it, or add training rows with it."
    )


def _appointments(data_seed: int) -> TaggedTask:
    sets = {split: tagged_sentences(split, rows, data_seed) for split, rows in _SIZES.items()}
    types = {type_of(tag) for _, row in sets["train"] for tag in row} - {None}
    label_names = tag_names(sorted(map(str, types)))
    encoded = {
        split: build_tagged(
            [tokens for tokens, _ in rows],
            [[label_names.index(tag) for tag in tags] for _, tags in rows],
        )
        for split, rows in sets.items()
    }
    train, validation = encoded["train"], encoded["validation"]
    return _task("appointments", train, validation, "words", ("tokens", "tags"), label_names)


def _task(
    name: str,
    train: Dataset,
    validation: Dataset,
    rows_of: RowsOf,
    columns: tuple[str, str],
    label_names: tuple[str, ...],
) -> TaggedTask:
    return TaggedTask(
        name=name,
        train=train,
        validation={"validation": validation},
        metrics=TAG_METRICS,
        main_metric=TAG_METRICS[0],
        rows_of=rows_of,
        text_column=columns[0],
        label_column=columns[1],
        label_names=label_names,
    )
