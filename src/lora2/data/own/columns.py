"""The columns of texts and labels in a user's table, and the checks of their values."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from decimal import Decimal

from lora2.data.own.label_spelling import difference_of, first_alike
from lora2.data.tables.table import DataTable, listed
from lora2.data.tasks.labelled_task import Kind
from lora2.errors import UserError
from lora2.support.shown_values import MOST_SHOWN, as_shown

logger = logging.getLogger(__name__)

# The number of names that a message shows.
_NAMED = 10

_GUESSED_TEXT_COLUMNS = (("text",), ("sentence",), ("sentence1", "sentence2"))
# A fraction, also as Python writes a small one; 1E2 may be a code.
_DECIMAL = re.compile(r"[+-]?(\d*\.\d+([eE][+-]?\d+)?|\d+[eE]-\d+)")
_WHOLE_DECIMAL = re.compile(r"([+-]?\d+)\.0+")
_INTEGER = re.compile(r"[+-]?\d+")
# The most digits that are turned into an integer; Python refuses more than 4,300.
_LONGEST_INTEGER = 4000
# The largest number of float32, in which models compute.
_LARGEST_NUMBER = 3.4028234663852886e38


def choose_text_columns(table: DataTable, named: Sequence[str] | None) -> tuple[str, ...]:
    """Return the text columns the user named or, if there is one obvious choice, that one.

    Raises:
        UserError: a number of names other than one or two, or no or several obvious choices.
    """
    if named is not None:
        if len(named) not in (1, 2) or len(set(named)) != len(named):
            raise UserError(
                f"text_columns: got {listed(named) or 'nothing'}; name one column, or two "
                f"different ones for pairs of texts."
            )
        return tuple(named)
    present = [
        names for names in _GUESSED_TEXT_COLUMNS if all(n in table.column_names for n in names)
    ]
    if len(present) != 1:
        found = "several text columns" if present else "no column called text or sentence"
        raise UserError(
            f"text_columns: {table.source} has {found}; name the one or two text columns among "
            f"{listed(table.column_names)}."
        )
    logger.info("Reading the texts of %s from %s.", table.source, " and ".join(present[0]))
    return present[0]


def read_texts(table: DataTable, names: Sequence[str]) -> list[list[str]]:
    """Return the one or two columns of texts.

    Raises:
        UserError: a column is missing, or holds nulls, only blanks, or values that are no text.
    """
    return [_read_text_column(table, name) for name in names]


def _read_text_column(table: DataTable, name: str) -> list[str]:
    values = table.column(name, "text_columns")
    _refuse_missing(table, name, "text_columns", values)
    texts: list[str] = []
    for row, value in enumerate(values, start=1):
        if not isinstance(value, str):
            raise UserError(
                f"text_columns: column {name!r} of {table.source} holds {as_shown(value)} in row "
                f"{row}, which is no text; name a column of texts."
            )
        texts.append(value)
    if not any(text.strip() for text in texts):
        raise UserError(
            f"text_columns: all {len(texts)} texts in column {name!r} of {table.source} are blank; "
            f"name a column with texts."
        )
    return texts


def _refuse_missing(table: DataTable, name: str, role: str, values: Sequence[object]) -> None:
    missing = [row for row, value in enumerate(values, start=1) if _is_missing(value)]
    if missing:
        what = "only empty values" if len(missing) == len(values) else "empty values"
        raise UserError(
            f"{role}: column {name!r} of {table.source} has {what}, {len(missing)} of "
            f"{len(values)} rows (first: row {missing[0]}); fill or remove these rows, or name "
            f"another column."
        )


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _is_blank(value: object) -> bool:
    return isinstance(value, str) and not value.strip()


def read_labels(
    table: DataTable, name: str, kind: Kind, *, is_learnt: bool = False
) -> list[str] | list[float]:
    """Return the labels as class names (classification) or floats (regression).

    is_learnt: whether a model has learnt this kind of labels, so that no other can be chosen.

    Raises:
        UserError: the column is missing, has nulls or blanks, or its values do not fit `kind`.
    """
    # JSON lines and Parquet may hold "" where CSV has nothing.
    values = [None if _is_blank(value) else value for value in table.column(name, "label_column")]
    _refuse_missing(table, name, "label_column", values)
    if kind == "regression":
        advice = (
            "the run has learnt numbers, so correct the row"
            if is_learnt
            else "regression needs numbers, so use kind=classification or another label column"
        )
        return [
            _number(table, name, row, value, advice) for row, value in enumerate(values, start=1)
        ]
    names = [_class_name(table, name, row, value) for row, value in enumerate(values, start=1)]
    if any(map(_DECIMAL.fullmatch, names)) and all(map(_is_number, names)):
        example = next(filter(_DECIMAL.fullmatch, names))
        advice = (
            "the run has learnt classes, so correct the column"
            if is_learnt
            else "use kind=regression or name another label column"
        )
        raise UserError(
            f"kind: column {name!r} of {table.source} holds fractions such as {example}, which "
            f"are no class labels; {advice}."
        )
    _refuse_alike(table, name, names)
    return names


def _refuse_alike(table: DataTable, name: str, labels: Sequence[str]) -> None:
    """Check that no two classes look the same."""
    alike = first_alike(labels)
    if alike is not None:
        other, label = alike
        raise UserError(
            f"label_column: column {name!r} of {table.source} has the labels {as_shown(other)} "
            f"and {as_shown(label)} (row {list(labels).index(label) + 1}), "
            f"{difference_of(other, label)}."
        )


def _number(table: DataTable, name: str, row: int, value: object, advice: str) -> float:
    # bool is an int to Python, but true and false are two classes, not a scale.
    if isinstance(value, (int, float, str, Decimal)) and not isinstance(value, bool):
        try:
            # "1_0" is ten to Python, and a code or a mistake in a table.
            number = math.nan if isinstance(value, str) and "_" in value else float(value)
        # An integer of hundreds of digits has no float.
        except (ValueError, OverflowError):
            number = math.nan
        if abs(number) <= _LARGEST_NUMBER:
            return number
    raise UserError(
        f"kind: column {name!r} of {table.source} holds {as_shown(value)} in row {row}, which is "
        f"no number, or none of float32; {advice}."
    )


def _class_name(table: DataTable, name: str, row: int, value: object) -> str:
    if not isinstance(value, (str, int, float)) or (isinstance(value, float) and math.isinf(value)):
        raise UserError(
            f"label_column: column {name!r} of {table.source} holds {as_shown(value)} in row "
            f"{row}; a class label is one word or one whole number."
        )
    text = str(value)
    # A column of integers that once had a gap is stored as 0.0, 1.0 by pandas and spreadsheets.
    whole = _WHOLE_DECIMAL.fullmatch(text)
    return whole[1] if whole else text


def _is_number(text: str) -> bool:
    return bool(_DECIMAL.fullmatch(text) or _INTEGER.fullmatch(text))


def sorted_label_names(labels: Sequence[str]) -> tuple[str, ...]:
    """Return the distinct class names, in numerical order if all are whole numbers ("2", "10")."""
    names = set(labels)
    if all(_INTEGER.fullmatch(name) and len(name) < _LONGEST_INTEGER for name in names):
        # The spelling breaks ties between "1" and "01".
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def encode_labels(
    table: DataTable, column: str, labels: Sequence[str], label_names: Sequence[str]
) -> list[int]:
    """Return each label's index in `label_names`.

    Raises:
        UserError: a label that is not among them.
    """
    index = {name: position for position, name in enumerate(label_names)}
    unknown = sorted(set(labels) - set(index))
    if unknown:
        alike = first_alike([*label_names, *unknown])
        if alike is not None and alike[1] in unknown:
            raise UserError(
                f"label_column: column {column!r} of {table.source} has the label "
                f"{as_shown(alike[1])} (row {list(labels).index(alike[1]) + 1}), and the training "
                f"data has {as_shown(alike[0])}, {difference_of(*alike)}."
            )
        raise UserError(
            f"label_column: column {column!r} of {table.source} has the label "
            f"{as_shown(unknown[0])} (row {list(labels).index(unknown[0]) + 1}), which the "
            f"training data lacks; its labels are {_first_of(label_names)}; correct it, or add "
            "training rows with it."
        )
    return [index[label] for label in labels]


def _first_of(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return listed(name[:MOST_SHOWN] for name in names[:_NAMED]) + more
