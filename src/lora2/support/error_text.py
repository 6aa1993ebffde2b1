"""What other libraries raise, in the words of one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import OutOfMemoryError

from lora2.errors import UserError


def one_line(error: BaseException) -> str:
    """Return the text of an error on one line; its type where it has no text."""
    return " ".join(str(error).split()) or type(error).__name__


def clause_of(error: BaseException) -> str:
    """Return an error's text on one line without a final period, for the middle of a sentence."""
    return one_line(error).rstrip(".") or type(error).__name__


def first_line_of(error: BaseException) -> str:
    """Return the first line of an error's text without a final period; its type without a text.

    Two lines if the first ends in a colon: "Validation error for field 'hidden_size':" says in the
    next what is wrong.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1]).rstrip(".")
    return text or type(error).__name__


def reason_of(error: BaseException) -> str:
    """Return an error's type and the first line of its text."""
    kind, text = type(error).__name__, first_line_of(error)
    return kind if text == kind else f"{kind}: {text}"


@contextmanager
def in_one_sentence(what: str, advice: str) -> Iterator[None]:
    """Say `what`, why in the words of another library, whatever it raises, and what to do.

    Raises:
        UserError: in place of any error but one of memory, or one that is a UserError already.
    """
    try:
        yield
    except (UserError, MemoryError, OutOfMemoryError):
        raise
    except Exception as error:
        raise UserError(f"{what} ({reason_of(error)}); {advice}.") from error
