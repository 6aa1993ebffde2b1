"""Reads JSON and YAML of a user's disk; what is wrong with a file is said in one sentence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from lora2.errors import UserError
from lora2.support.byte_order_marks import marked_encoding
from lora2.support.extras import require
from lora2.support.field_types import fits, in_words, kind_of, shortened
from lora2.support.shown_values import shown_path
from lora2.support.strict_json import JsonError, parse
from lora2.support.strict_yaml import YamlError, parse_yaml

# What becomes of NaN and Infinity.
_NotFinite = Literal["refused", "null"]


class _FaultError(ValueError):
    """What is wrong with a file, as the predicate of a sentence."""


def read_json(path: Path, advice: str, *, nan_as_null: bool = False) -> dict[str, Any]:
    """Return the mapping in a JSON file.

    Args:
        advice: what the user can do about a damaged file, the end of the sentence.
        nan_as_null: whether NaN and Infinity, which are not JSON, are read as null.

    Raises:
        UserError: the file is missing, no JSON, or holds another type; the sentence names it.
    """
    not_finite: _NotFinite = "null" if nan_as_null else "refused"
    content: dict[str, Any] = _checked(path, advice, partial(_parse_json, not_finite=not_finite))
    return content


def read_json_text(text: str, name: str) -> Any:
    """Return the value that a text is as JSON, read as strictly as a file.

    name: what the sentence calls it.

    Raises:
        UserError: it is no JSON, or has a key twice.
    """
    try:
        return _json_value(text, "refused")
    except _FaultError as fault:
        raise UserError(f"{name} is not JSON that can be read: it {fault}.") from fault


def read_json_lines(path: Path, advice: str) -> list[dict[str, Any]]:
    """Return the objects of a JSON lines file; NaN and Infinity are read as null.

    Raises:
        UserError: as for `read_json`; the sentence names the line, too.
    """
    # A run without evaluations has a file without lines.
    return _checked(path, advice, _parse_lines, may_be_empty=True)


def read_yaml(
    path: Path,
    advice: str,
    *,
    may_be_empty: bool = False,
    holds_text: Callable[[str], bool] = lambda key: False,
) -> dict[str, Any]:
    """Return the mapping in a YAML file, whose keys are texts.

    Args:
        advice: as for `read_json`.
        may_be_empty: whether a file without any key is an empty mapping.
        holds_text: whether the value of a key is a text, or a list of texts. Such a value is read
            as it is written: `no`, `0x10` and `1.10` are no truth value and no numbers then.

    Raises:
        UserError: as for `read_json`.
    """
    # A missing package is found before the file is read.
    require("yaml", extra="train")
    parse_text = partial(parse_yaml, holds_text=holds_text)
    content = _checked(path, advice, parse_text, may_be_empty=may_be_empty)
    if content is None and may_be_empty:
        return {}
    return _checked_mapping(path, advice, content)


def check_fields(
    content: Mapping[str, Any],
    fields: Mapping[str, Any],
    path: Path | str,
    advice: str,
    *,
    optional: bool = False,
) -> None:
    """Check that a file's mapping has the fields, each of its type; others are left alone.

    Args:
        fields: a type by name, such as `int`, `list[str]` or `Literal["a", "b"]`.
        optional: whether a field may be missing.

    Raises:
        UserError: the sentence names file and field.
    """
    for name, hint in fields.items():
        if name not in content:
            if optional:
                continue
            raise UserError(f"{path} lacks the key {name!r}; {advice}.")
        if not fits(content[name], hint):
            raise UserError(
                f"{path}: {name} is {shortened(content[name])}, and must be {in_words(hint)}; "
                f"{advice}."
            )


def _checked(
    path: Path, advice: str, parse: Callable[[str], Any], *, may_be_empty: bool = False
) -> Any:
    try:
        text = _text_of(path)
        if not text.strip() and not may_be_empty:
            raise _FaultError("is empty")
        return parse(text)
    except (_FaultError, YamlError) as fault:
        raise UserError(f"{shown_path(path)} {fault}; {advice}.") from fault


def _checked_mapping(path: Path, advice: str, content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        found = kind_of(content)
        raise UserError(f"{path} holds {found} in place of lines `key: value`; {advice}.")
    strange = [key for key in content if not isinstance(key, str)]
    if strange:
        found = shortened(strange[0])
        raise UserError(f"{path} has the key {found}, which is not a name; {advice}.")
    return content


def _text_of(path: Path) -> str:
    try:
        return _text(path)
    except OSError as error:
        raise _FaultError(f"cannot be read ({error.strerror})") from error


def _text(path: Path) -> str:
    if path.is_dir():
        raise _FaultError("is a folder, and must be a file")
    if not path.is_file():
        raise _FaultError("is not a regular file" if path.exists() else "does not exist")
    content = path.read_bytes()
    encoding = marked_encoding(content)
    if encoding is not None:
        raise _FaultError(f"is {encoding} text, and must be UTF-8")
    try:
        # Some editors put a byte order mark in front.
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _FaultError(f"is not UTF-8 text (byte {error.start})") from error


def _parse_json(text: str, not_finite: _NotFinite) -> dict[str, Any]:
    value = _json_value(text, not_finite)
    if not isinstance(value, dict):
        raise _FaultError(f"holds {kind_of(value)}, and must hold {in_words(dict)}")
    return value


def _parse_lines(text: str) -> list[dict[str, Any]]:
    # `splitlines` would also split at characters that may be within a JSON string.
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    return [_parse_line(number, line) for number, line in lines]


def _parse_line(number: int, line: str) -> dict[str, Any]:
    try:
        return _parse_json(line, "null")
    except _FaultError as fault:
        raise _FaultError(f"is damaged: its line {number} {fault}") from fault


def _json_value(text: str, not_finite: _NotFinite) -> Any:
    try:
        return parse(text, not_finite=not_finite)
    except JsonError as error:
        sentences = {
            "syntax": f"is not valid JSON, or was cut short ({error.syntax})",
            "repeated key": f"has the key {error.name!r} twice",
            "not a number": f"holds {error.name}, which is not a number of JSON",
            "too many digits": "holds a number of too many digits",
            "too deep": "is nested too deeply",
        }
        raise _FaultError(sentences[error.fault]) from error
