"""What other libraries raise, in the words of one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import OutOfMemoryError

from lora2.errors import UserError


def one_line(error: BaseException) -> str:
    """Return the text of an error on one line; its type where it has no text."""
    return " ".join(str(error).split()) or type(error).__name__


def reason_of(error: BaseException) -> str:
    """Return an error's type and the first line of its text, two if the first ends in a colon."""
    lines = [line.strip() for line in str(error).strip().splitlines()]
    text = " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1]).rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


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
