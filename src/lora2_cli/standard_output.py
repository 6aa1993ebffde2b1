"""Standard output that is not UTF-8, is not read to its end, or is on a full disk."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def printing_what_can_be_shown() -> Iterator[None]:
    """Print `?` for characters that the encoding of a terminal or pipe does not have."""
    changed: list[tuple[io.TextIOWrapper, str]] = []
    for stream in (sys.stdout, sys.stderr):
        # Standard error escapes such characters already, unless somebody has changed that.
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            changed.append((stream, stream.errors))
            stream.reconfigure(errors="replace")
    try:
        yield
    finally:
        for stream, errors in changed:
            if not stream.closed:
                stream.reconfigure(errors=errors)


def can_be_shown(text: str) -> bool:
    """Whether the encoding of standard output has all characters of a text."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def drop_standard_output() -> None:
    """Send what has not been written yet nowhere, so that Python does not fail on it at its end."""
    if sys.stdout is None:
        return
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    # A caller of `main` may have put something in its place that is not a file.
    except (OSError, ValueError):
        pass


def drop_standard_output_if_broken() -> None:
    """Do the same where standard output cannot be written to, such as on a full disk."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        drop_standard_output()
