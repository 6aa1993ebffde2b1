"""Lists of messages in a user's rows, and what of them would be lost."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from lora2.data.tables.json_rows import list_in_cell
from lora2.data.tables.table import DataTable
from lora2.errors import UserError

# Chat templates write these fields of a message beside role and content.
_WRITTEN_BESIDE_CONTENT = (
    "tool_calls",
    "function_call",
    "tool_call_id",
    "tool_responses",
    "name",
    "reasoning_content",
    "reasoning",
    "thinking",
)
# TRL passes these columns on beside the messages of a row, to chat templates and image processors.
_WRITTEN_BESIDE_MESSAGES = ("tools", "chat_template_kwargs", "images")
# Messages of these roles are not answers.
_OF_OTHERS = ("system", "developer", "user", "tool", "function")
# Cells of CSV with these texts, some of which are JSON, hold nothing.
_NOTHING = ("", "[]", "{}", "null")


def are_messages(value: object) -> bool:
    """Whether a value is a list of messages with role and content, one at least."""
    return isinstance(value, list) and bool(value) and all(map(_is_message, value))


def messages_in_cell(value: object) -> list[object] | None:
    """Return the messages that a cell of CSV or TSV holds as JSON, None where it holds none."""
    found = list_in_cell(value) if isinstance(value, str) else None
    return found if are_messages(found) else None


def check_has_words_alone(messages: object, place: str, role: str) -> None:
    """Check that nothing of a message would be lost that a chat template can write.

    Raises:
        UserError: something would; `role` is the option that named the messages.
    """
    assert isinstance(messages, list)
    lost = next(
        (name for name in _WRITTEN_BESIDE_CONTENT if any(m.get(name) for m in messages)), None
    )
    if any(m.get("weight") == 0 and m["role"] not in _OF_OTHERS for m in messages):
        raise UserError(
            f"{role}: a message in {place} has weight 0, and would be learnt all the same; remove "
            "the message, or the weight if it is to be learnt."
        )
    if lost is not None:
        raise UserError(
            f"{role}: a message in {place} has {lost!r} beside its content, which would not be "
            "learnt; write it into content, as the model is to write it, or remove it."
        )


def check_ends_in_answer(
    messages: Sequence[Mapping[str, object]], name: str, place: str, role: str
) -> None:
    """Check that the messages of a column end in words that the model is to write.

    Raises:
        UserError: they end in others'; `role` is the option that named the column.
    """
    last = messages[-1]["role"]
    if last in _OF_OTHERS:
        raise UserError(
            f"{role}: {name} ends in a message of the role {last} in {place}, which is no "
            "answer; let it end in one of the role assistant, or remove the row."
        )


def check_has_messages_alone(
    table: DataTable, role: str, lost: str, read: Collection[str] = ()
) -> None:
    """Check that no row has something beside its messages that a chat template can write.

    Args:
        table: rows of messages.
        role: the option that named them.
        lost: what would not be done with it, as in "learnt".
        read: the columns that are read.

    Raises:
        UserError: naming the first row that has.
    """
    for name in _WRITTEN_BESIDE_MESSAGES:
        if name not in table.column_names or name in read:
            continue
        for number, value in enumerate(table.read_column(name), start=1):
            if _holds_something(value):
                raise UserError(
                    f"{role}: row {number} of {table.source} has {name!r} beside its messages, "
                    f"which would not be {lost}; write it into the content of a message, as the "
                    "model is to read it, or remove it."
                )


def _holds_something(value: object) -> bool:
    if isinstance(value, str):
        return value.strip() not in _NOTHING
    if isinstance(value, dict):
        # Parquet gives every row the keys of all rows.
        return any(map(_holds_something, value.values()))
    return bool(value) if isinstance(value, Sequence) else value is not None


def _is_message(value: object) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("role"), str)
        and isinstance(value.get("content"), str)
    )
