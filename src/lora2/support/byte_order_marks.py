"""Byte-order marks, which show that a text is UTF-16 or UTF-32 and not UTF-8."""

from __future__ import annotations

import codecs

# Those of UTF-32 come first: the little-endian one begins with the mark of UTF-16.
_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def marked_encoding(content: bytes) -> str | None:
    """Return the encoding other than UTF-8 whose mark is at the start, None without such a mark."""
    return next((name for mark, name in _MARKS.items() if content.startswith(mark)), None)
