"""Whether a file is UTF-8 text, and what else it seems to be."""

from __future__ import annotations

import codecs
from pathlib import Path

from lora2.errors import UserError

_HEAD = 4096
# Those of UTF-32 first: the one of UTF-16 is how they begin.
_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def check_is_utf8_text(path: Path, role: str) -> None:
    """Check by its first bytes that a file is not text of another encoding, and no binary file.

    Raises:
        UserError: it is; the sentence names the encoding and how to convert the file.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
    for mark, encoding in _MARKS.items():
        if head.startswith(mark):
            raise UserError(_sentence(path, role, f"is {encoding} text", encoding))
    if b"\0" not in head:
        return
    # Every second byte of English text in UTF-16 is NUL.
    if head.count(b"\0") > len(head) // 3:
        raise UserError(_sentence(path, role, "seems to be UTF-16 text", "UTF-16LE"))
    raise UserError(
        f"{role}: {path} holds NUL bytes, so it is no text file; give a text file, or a Parquet "
        "file that ends in .parquet."
    )


def not_utf8(path: Path, role: str, error: UnicodeDecodeError) -> UserError:
    """Return the sentence for a file whose bytes are no UTF-8."""
    byte = error.object[error.start]
    found = (
        f"is not UTF-8 text (byte {error.start} of a part of it is 0x{byte:02X}), and seems to be "
        "Latin-1 or Windows-1252 text"
    )
    return UserError(_sentence(path, role, found, "WINDOWS-1252"))


def _sentence(path: Path, role: str, found: str, encoding: str) -> str:
    return (
        f"{role}: {path} {found}; convert it to UTF-8, as with "
        f"`iconv -f {encoding} -t UTF-8 {path.name} > converted{path.suffix}`."
    )
