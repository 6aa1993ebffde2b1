"""The rows of a user's table of texts, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lora2.data.own.messages import (
    are_messages,
    check_ends_in_answer,
    check_has_messages_alone,
    check_has_words_alone,
    messages_in_cell,
)
from lora2.data.tables.table import DataTable, listed
from lora2.data.tasks.writing_task import FORMS, PREFERENCES, Form
from lora2.errors import UserError
from lora2.support.shown_values import as_shown

_ROLE = "text_columns"
_ANSWERS = ("completion", "chosen", "rejected")
_OF_TEXT_ALONE = (".csv", ".tsv")


def choose_form(
    table: DataTable, named: Sequence[str] | None, forms: Sequence[Form]
) -> tuple[Form, tuple[str, ...]]:
    """Return the form of a table's rows, and the columns that hold them.

    Args:
        table: the user's.
        named: the columns that the user named, if any; a single one of another name holds texts.
        forms: those that may be.

    Raises:
        UserError: no or several forms, or names that are no form.
    """
    advice = f"name {', or '.join(FORMS[form].named for form in forms)}."
    if named is not None:
        form = next((form for form in forms if FORMS[form].columns == tuple(named)), None)
        if form is None and len(named) == 1 and "text" in forms:
            form = "text"
        if form is None:
            raise UserError(f"{_ROLE}: got {listed(named) or 'nothing'}; {advice}")
        return form, tuple(named)
    there = [form for form in forms if {*FORMS[form].columns} <= {*table.column_names}]
    # A table that has all columns of two forms is meant as the one with more columns.
    found = [
        form
        for form in there
        if not any({*FORMS[form].columns} < {*FORMS[other].columns} for other in there)
    ]
    if len(found) != 1:
        has = "columns of several forms" if found else "no texts to learn from"
        raise UserError(
            f"{_ROLE}: {table.source} has {has} (its columns are "
            f"{listed(table.column_names)}); {advice}"
        )
    return found[0], FORMS[found[0]].columns


def read_rows(
    table: DataTable, form: Form, columns: Sequence[str], conversational: bool | None = None
) -> list[dict[str, Any]]:
    """Return one dictionary a row, by the column names of the form, every value checked.

    conversational: whether the training rows are messages, where these are others.

    Raises:
        UserError: naming the first row that cannot be used.
    """
    values = [column_of(table, name, _ROLE, form) for name in columns]
    rows = [dict(zip(FORMS[form].columns, row, strict=True)) for row in zip(*values, strict=True)]
    kinds = set()
    for number, row in enumerate(rows, start=1):
        place = f"row {number} of {table.source}"
        kinds |= {_kind(value, name, place, form) for name, value in row.items()}
        _check_row(row, place, form)
    if len(kinds) > 1:
        raise UserError(
            f"{_ROLE}: in {listed(columns)} of {table.source} some values are text and some are "
            "messages; write all of them in one way."
        )
    if conversational is not None and kinds != {list if conversational else str}:
        kind, learnt = ("text", "messages") if conversational else ("messages", "text")
        raise UserError(
            f"{_ROLE}: {listed(columns)} of {table.source} are {kind}, and those of the training "
            f"rows are {learnt}; write {learnt} there, too."
        )
    if kinds == {list}:
        check_has_messages_alone(table, _ROLE, "learnt", columns)
    return [{name: _plain(value) for name, value in row.items()} for row in rows]


def _check_row(row: dict[str, Any], place: str, form: Form) -> None:
    """Check that a row whose values are as they must be has something to learn from.

    Raises:
        UserError: it has not.
    """
    if form in PREFERENCES and row["chosen"] == row["rejected"]:
        raise UserError(
            f"{_ROLE}: chosen and rejected are the same in {place}, so there is nothing to "
            "prefer; change or remove the row."
        )
    if form == "preference_pair" and not _begin_alike(row["chosen"], row["rejected"]):
        raise UserError(
            f"{_ROLE}: the messages of chosen and rejected in {place} have no first ones in "
            "common, which would be the prompt; begin both with the same messages, or add a "
            "column prompt."
        )
    for name in _ANSWERS:
        if isinstance(row.get(name), list):
            check_ends_in_answer(row[name], name, place, _ROLE)
    if form == "chat" and not any(m["role"] == "assistant" for m in row["messages"]):
        raise UserError(
            f"{_ROLE}: the messages in {place} hold none of the role assistant, so there is "
            "nothing to learn from them; remove the row."
        )


def column_of(
    table: DataTable, name: str, role: str, form: Form = "prompt_completion"
) -> list[object]:
    """Return a column; in CSV and TSV, which hold nothing but text, messages are read from JSON.

    Raises:
        UserError: there is no such column; `role` is the option that named it.
    """
    values = list(table.column(name, role))
    if form == "text" or Path(table.source).suffix.lower() not in _OF_TEXT_ALONE:
        return values
    return [messages_in_cell(value) or value for value in values]


def _begin_alike(chosen: Any, rejected: Any) -> bool:
    """Whether two lists of messages have a prompt; two texts may be answers to none."""
    both_are_lists = isinstance(chosen, list) and isinstance(rejected, list)
    return not both_are_lists or (chosen[0] == rejected[0] and min(len(chosen), len(rejected)) > 1)


def _kind(value: object, name: str, place: str, form: Form) -> type:
    """Return str or list, of a text or of messages that are as they must be."""
    if isinstance(value, str) and form != "chat":
        if name != "prompt" and not value.strip():
            raise UserError(f"{_ROLE}: {name} is blank in {place}; fill or remove the row.")
        return str
    if form != "text" and are_messages(value):
        check_has_words_alone(value, place, _ROLE)
        return list
    raise UserError(
        f"{_ROLE}: {name} is {_shown(value)} in {place}; write {FORMS[form].holds} there."
    )


def _plain(value: Any) -> Any:
    # Only role and content are learnt, and not fields such as dates of messages.
    if isinstance(value, str):
        return value
    return [{"role": message["role"], "content": message["content"]} for message in value]


def _shown(value: object) -> str:
    return "empty" if value in (None, "", []) else as_shown(value)
