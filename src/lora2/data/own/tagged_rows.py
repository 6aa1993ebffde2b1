"""A user's rows of words and tags, or of texts and spans, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from lora2.data.tables.json_rows import list_in_cell
from lora2.data.tables.table import DataTable, listed
from lora2.data.tasks.bio import Span, is_tag, tags_of, words_of
from lora2.data.tasks.tagged_task import RowsOf
from lora2.errors import UserError
from lora2.support.shown_values import as_shown

_TEXT, _LABEL = "text_columns", "label_column"
_TEXT_COLUMNS = ("tokens", "words", "text")
_WORDS_COLUMNS = _TEXT_COLUMNS[:2]
_LABEL_COLUMNS = ("tags", "ner_tags", "spans", "entities")


@dataclass(frozen=True)
class TaggedRows:
    """Words of rows, with their tags where they were asked for."""

    tokens: list[list[str]]
    tags: list[list[str]]


def choose_columns(
    table: DataTable, text_columns: Sequence[str] | None, label_column: str | None
) -> tuple[str, str]:
    """Return the column of words or text and that of tags or spans; obvious ones need no name.

    Raises:
        UserError: more than one text column is named, or there is no or no single obvious one.
    """
    if text_columns is not None and len(text_columns) != 1:
        raise UserError(
            f"{_TEXT}: got {listed(text_columns) or 'nothing'}; name the one column of words, or "
            "of texts."
        )
    text = text_columns[0] if text_columns else _only(table, _TEXT, _TEXT_COLUMNS, "words")
    label = label_column or _only(table, _LABEL, _LABEL_COLUMNS, "tags")
    if text == label:
        raise UserError(f"{_LABEL}: {label!r} is also the text column; name another column.")
    return text, label


def _only(table: DataTable, role: str, usual: Sequence[str], holds: str) -> str:
    present = [name for name in usual if name in table.column_names]
    if len(present) != 1:
        found = f"several columns of {holds}" if present else f"no column called {listed(usual)}"
        raise UserError(
            f"{role}: {table.source} has {found}; name the column of {holds} among "
            f"{listed(table.column_names)}."
        )
    return present[0]


def form_of(table: DataTable, text_column: str) -> RowsOf:
    """Return how the rows of a table are written: texts if one of them is no list.

    Raises:
        UserError: there is no such column.
    """
    values = table.column(text_column, _TEXT)
    # A column of this name is meant to hold lists, so that what else it holds is a mistake.
    if text_column in _WORDS_COLUMNS:
        return "words"
    has_texts = any(isinstance(value, str) and _as_list(value) is None for value in values)
    return "spans" if has_texts else "words"


def read_tagged(
    table: DataTable, rows_of: RowsOf, text_column: str, label_column: str
) -> TaggedRows:
    """Return words and tags, every value checked.

    Raises:
        UserError: naming the first row that cannot be used.
    """
    labels = table.column(label_column, _LABEL)
    if rows_of == "words":
        rows = read_words(table, rows_of, text_column)
        return TaggedRows(rows, [
            _tags(value, tokens, f"column {label_column!r}, row {number} of {table.source}")
            for number, (value, tokens) in enumerate(zip(labels, rows, strict=True), start=1)
        ])  # fmt: skip
    texts = read_plain_texts(table, text_column)
    places = [words_of(text) for text in texts]
    tags = []
    for number, (value, text, words) in enumerate(zip(labels, texts, places, strict=True), start=1):
        place = f"column {label_column!r}, row {number} of {table.source}"
        spans = _spans(value, text, place)
        try:
            tags.append(tags_of(words, spans))
        except ValueError as error:
            raise UserError(f"{_LABEL}: in {place} {error}; correct the row.") from error
    return TaggedRows([_words(text) for text in texts], tags)


def read_words(table: DataTable, rows_of: RowsOf, text_column: str) -> list[list[str]]:
    """Return the words of each row.

    Raises:
        UserError: naming the first row that has none.
    """
    if rows_of == "spans":
        return [_words(text) for text in read_plain_texts(table, text_column)]
    return [
        _tokens(value, f"column {text_column!r}, row {number} of {table.source}")
        for number, value in enumerate(table.column(text_column, _TEXT), start=1)
    ]


def read_plain_texts(table: DataTable, text_column: str) -> list[str]:
    """Return the texts, each with a word at least.

    Raises:
        UserError: naming the first row that holds no text.
    """
    texts = []
    for number, value in enumerate(table.column(text_column, _TEXT), start=1):
        if not isinstance(value, str) or not words_of(value):
            raise UserError(
                f"{_TEXT}: column {text_column!r}, row {number} of {table.source} holds "
                f"{as_shown(value)}; write a text with a word at least."
            )
        texts.append(value)
    return texts


def _words(text: str) -> list[str]:
    return [text[start:end] for start, end in words_of(text)]


def _as_list(value: object) -> list[object] | None:
    """Return a list, or what a cell of CSV holds as JSON; None where that is none."""
    if isinstance(value, str):
        return list_in_cell(value)
    return value if isinstance(value, list) else None


def _tokens(value: object, place: str) -> list[str]:
    words = _as_list(value)
    if words is None:
        raise UserError(
            f"{_TEXT}: {place} holds {as_shown(value)}; write a list of words such as "
            '["in", "Rome"].'
        )
    if not words:
        raise UserError(f"{_TEXT}: {place} holds an empty list; remove the row.")
    tokens = []
    for word in words:
        if not isinstance(word, str) or not word.strip():
            raise UserError(
                f"{_TEXT}: {place} holds the word {as_shown(word)}, which is no text or blank; "
                "write words alone."
            )
        tokens.append(word)
    return tokens


def _tags(value: object, tokens: Sequence[str], place: str) -> list[str]:
    found = _as_list(value)
    if found is None:
        raise UserError(
            f"{_LABEL}: {place} holds {as_shown(value)}; write a list of tags such as "
            '["O", "B-place"].'
        )
    if len(found) != len(tokens):
        raise UserError(
            f"{_LABEL}: {place} holds {len(found)} tags for {len(tokens)} words; write one tag for "
            "each word."
        )
    tags = []
    for tag in found:
        if not isinstance(tag, str) or not is_tag(tag):
            raise UserError(
                f"{_LABEL}: {place} holds {as_shown(tag)}, which is no BIO tag; write O, B-x or "
                "I-x, where x is the type of the entity."
            )
        tags.append(tag)
    return tags


def _spans(value: object, text: str, place: str) -> list[Span]:
    """Return the spans of a text, in their order."""
    # CSV has no form for an empty list but an empty cell.
    found = [] if value is None else _as_list(value)
    if found is None:
        raise UserError(
            f"{_LABEL}: {place} holds {as_shown(value)}; write a list of spans such as "
            '[{"start": 3, "end": 7, "label": "place"}].'
        )
    spans = sorted(_span(each, text, place) for each in found)
    for before, after in pairwise(spans):
        if after.start < before.end:
            raise UserError(
                f"{_LABEL}: in {place} the span {after.start} to {after.end} ({after.label}) "
                f"overlaps {before.start} to {before.end} ({before.label}); leave one of them out."
            )
    return spans


def _span(value: object, text: str, place: str) -> Span:
    fields: dict[str, object] = value if isinstance(value, dict) else {}
    start, end, label = (fields.get(name) for name in Span._fields)
    # bool is an int to Python.
    if (
        type(start) is not int
        or type(end) is not int
        or not isinstance(label, str)
        or not is_tag(f"B-{label}")
    ):
        raise UserError(
            f"{_LABEL}: {place} holds the span {as_shown(value)}; write start and end as numbers "
            "of characters, and label as a word."
        )
    if not 0 <= start < end <= len(text):
        raise UserError(
            f"{_LABEL}: {place} holds the span {start} to {end}, and its text has {len(text)} "
            "characters; write start from 0 on, and end above start and up to that."
        )
    return Span(start, end, label)
