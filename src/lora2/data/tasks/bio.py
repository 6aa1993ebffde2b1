"""BIO tags: one a word, B-x at the first word of an entity of the type x, I-x in it, O outside.

Ramshaw and Marcus 1995, "Text Chunking using Transformation-Based Learning", in the form IOB2. As
in the evaluation of CoNLL-2000, an I-x that continues no entity of its type begins one.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple

OUTSIDE = "O"
_BEGIN, _INSIDE = "B-", "I-"
_TAG = re.compile(r"O|[BI]-\S.*")
# In a word, these belong to the character before them, as combining marks do: soft hyphen, and
# what joins characters of Indic and Arabic scripts or keeps them apart.
_JOINERS = "\u00ad\u200c\u200d"


class Span(NamedTuple):
    """An entity: its first place, the place after its last one, and its type.

    Places are words or characters, as the caller says.
    """

    start: int
    end: int
    label: str


def is_tag(tag: str) -> bool:
    """Whether a text is a BIO tag."""
    return _TAG.fullmatch(tag) is not None


def type_of(tag: str) -> str | None:
    """Return the type of a tag's entity, None of a word outside."""
    return None if tag == OUTSIDE else tag[len(_BEGIN) :]


def tag_names(types: Iterable[str]) -> tuple[str, ...]:
    """Return all tags of entities of these types, O first."""
    return (OUTSIDE, *(f"{first}{each}" for each in types for first in (_BEGIN, _INSIDE)))


def spans_of(tags: Sequence[str]) -> list[Span]:
    """Return the entities of a row of tags, in places of words."""
    spans: list[Span] = []
    for place, tag in enumerate(tags):
        label = type_of(tag)
        if label is None:
            continue
        last = spans[-1] if spans else None
        if last and tag.startswith(_INSIDE) and last.end == place and last.label == label:
            spans[-1] = last._replace(end=place + 1)
        else:
            spans.append(Span(place, place + 1, label))
    return spans


def words_of(text: str) -> list[tuple[int, int]]:
    """Return start and end of each word of a text, in characters; a punctuation mark is a word.

    Combining marks, such as the vowel signs of Hindi or Thai and accents that are characters of
    their own, are of the word in which they stand.
    """
    words: list[tuple[int, int]] = []
    was_of_word = False
    for place, character in enumerate(text):
        is_of_word = character.isalnum() or character == "_"
        follows = bool(words) and words[-1][1] == place
        if follows and _joins(character):
            words[-1] = (words[-1][0], place + 1)
            continue
        if follows and was_of_word and is_of_word:
            words[-1] = (words[-1][0], place + 1)
        elif not character.isspace():
            words.append((place, place + 1))
        was_of_word = is_of_word
    return words


def _joins(character: str) -> bool:
    return character in _JOINERS or unicodedata.category(character).startswith("M")


def tags_of(words: Sequence[tuple[int, int]], spans: Sequence[Span]) -> list[str]:
    """Return the tags of words for spans of characters; a word that a span cuts is all in it.

    Raises:
        ValueError: a span without a word, or two spans of one word; the message says which.
    """
    tags = [OUTSIDE] * len(words)
    for span in sorted(spans):
        inside = [
            i for i, (start, end) in enumerate(words) if start < span.end and span.start < end
        ]
        if not inside:
            raise ValueError(f"the span {span.start} to {span.end} ({span.label}) holds no word")
        for place in inside:
            if tags[place] != OUTSIDE:
                raise ValueError(
                    f"the span {span.start} to {span.end} ({span.label}) shares a word with "
                    "another span"
                )
            tags[place] = f"{_BEGIN if place == inside[0] else _INSIDE}{span.label}"
    return tags
