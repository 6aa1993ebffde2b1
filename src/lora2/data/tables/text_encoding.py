"""UTF-8 text: opens files of it, and says what else a file seems to be."""

from __future__ import annotations

import codecs
import shlex
from pathlib import Path
from typing import TextIO

from lora2.errors import UserError
from lora2.support.byte_order_marks import marked_encoding

_HEAD = 4096
# This many NUL bytes, all at even places or all at odd ones, are no accident.
_MANY = 8
_OTHER_FILES = {
    b"\x1f\x8b": "a gzip archive; unpack it with `gunzip`",
    b"PK\x03\x04": "a zip archive, as spreadsheets (.xlsx) are; save its table as CSV",
    b"PAR1": "a Parquet file; give it a name that ends in .parquet",
}


def open_text(path: Path, newline: str = "") -> TextIO:
    """Open a file of UTF-8 text for reading, its line breaks as they are.

    newline: what ends a line, as in `open`; empty for every line break.
    """
    # utf-8-sig: spreadsheet programs put a byte-order mark in front of the first column's name.
    return path.open(encoding="utf-8-sig", newline=newline)


def check_is_utf8_text(path: Path, role: str) -> None:
    """Check that a file is UTF-8 text without NUL characters; `role` is the option that named it.

    Raises:
        UserError: it is not; the sentence names the line and, where it shows, the encoding and how
            to convert the file.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
        marked = marked_encoding(head)
        if marked is not None:
            raise UserError(_sentence(path, role, f"is {marked} text", marked))
        for mark, what in _OTHER_FILES.items():
            if head.startswith(mark):
                raise UserError(f"{role}: {path} is {what}.")
        guess = _encoding_without_mark(head)
        if guess is not None:
            raise UserError(_sentence(path, role, f"seems to be {guess[:6]} text", guess))
        file.seek(0)
        # No byte of a longer character is a line break, so that each line is UTF-8 by itself.
        for number, line in enumerate(file, start=1):
            _check_line(line, number, path, role)


def _check_line(line: bytes, number: int, path: Path, role: str) -> None:
    if b"\0" in line:
        raise UserError(
            f"{role}: {path} holds a NUL byte in line {number}, which is no text; remove it, or "
            "give a text file."
        )
    try:
        line.decode()
    except UnicodeDecodeError as error:
        byte = f"0x{line[error.start]:02X}"
        if _has_surrogates(line):
            raise UserError(
                f"{role}: {path} is not UTF-8 text, since line {number} has half of a surrogate "
                f"pair (byte {byte}), which is no character; remove it."
            ) from error
        found = (
            f"is not UTF-8 text in line {number} (byte {byte}), and seems to be Latin-1 or "
            "Windows-1252 text"
        )
        raise UserError(_sentence(path, role, found, "WINDOWS-1252")) from error


def _has_surrogates(line: bytes) -> bool:
    try:
        line.decode(errors="surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


def _encoding_without_mark(head: bytes) -> str | None:
    """Return the encoding of text that begins without a mark, None if it is not a wide one.

    In English, every second byte of UTF-16 is NUL; elsewhere only blanks, digits and line breaks
    have one, always as the first or always as the second of two bytes.
    """
    first, second = head[0::2].count(0), head[1::2].count(0)
    # A single one is a fault of a text rather than an encoding.
    if first + second < 2:
        return None
    encoding = "UTF-16BE" if first > second else "UTF-16LE"
    if first + second > len(head) * 5 // 8:
        encoding = "UTF-32BE" if head[0] == 0 else "UTF-32LE"
    elif first + second <= len(head) // 3:
        is_text = first + second < _MANY and _reads(head, "UTF-8")
        if is_text or min(first, second):
            return None
    return encoding if _reads(head, encoding) else None


def _reads(head: bytes, encoding: str) -> bool:
    """Whether bytes are of an encoding, but for a character that is cut off at their end."""
    try:
        codecs.getincrementaldecoder(encoding)().decode(head)
    except UnicodeDecodeError:
        return False
    return True


def _sentence(path: Path, role: str, found: str, encoding: str) -> str:
    source, target = shlex.quote(path.name), shlex.quote(f"{path.stem}.utf8{path.suffix}")
    return (
        f"{role}: {path} {found}; convert it to UTF-8, as with "
        f"`iconv -f {encoding} -t UTF-8 {source} > {target}`."
    )
