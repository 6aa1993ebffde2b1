"""Rewrite: dates and quantities in words, to be written in one fixed form.

"the 3rd of March 1998" → "1998-03-03"; "two and a half kilos" → "2.5 kg". No right answer of the
validation set is one of the training set: what is scored is the form, not a memory of answers.
"""

from __future__ import annotations

import random
import re
import zlib

from lora2.data.builtin.drawing import MONTHS, Split, generator_of

SYSTEM = "Write in standard form."
"""The system message of every row; without one, SmolLM2's template puts a longer one there."""

# Days that every month has, so that no date is impossible.
_DAYS = 28
_YEARS = (1900, 2099)
_DATES = (
    "{ordinal} of {month}, {year}",
    "the {ordinal} of {month} {year}",
    "{month} {day}, {year}",
    "{month} {ordinal}, {year}",
    "{day} {month} {year}",
    "{day} {short} {year}",
    "the {word} of {month}, {year}",
)

_DATE = re.compile(r"(\d{4})-(\d\d)-(\d\d)")

_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
    "nineteen",
)  # fmt: skip
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_ORDINALS = {
    "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth",
    "nine": "ninth", "twelve": "twelfth", "twenty": "twentieth",
}  # fmt: skip
# Fractions in hundredths, and their words after a whole number and without one.
_FRACTIONS = {
    25: ("and a quarter", "a quarter of a"),
    50: ("and a half", "half a"),
    75: ("and three quarters", "three quarters of a"),
}
_UNITS = {
    "kilo": "kg", "kilogram": "kg", "gram": "g", "metre": "m", "meter": "m", "kilometre": "km",
    "kilometer": "km", "centimetre": "cm", "litre": "l", "liter": "l", "millilitre": "ml",
    "minute": "min", "second": "s",
}  # fmt: skip
# One answer in this many is kept for validation.
_HELD_OUT = 5


def rewrite_pairs(split: Split, rows: int, seed: int = 0) -> list[tuple[str, str]]:
    """Return `rows` different texts of one split, each with its right answer.

    Deterministic by (split, seed). Half are dates, half quantities, in random order.

    Raises:
        ValueError: `rows` is not positive.
    """
    if rows < 1:
        raise ValueError(f"rows must be at least 1; got {rows}.")
    generator = generator_of("rewrite", split, seed)
    pairs: dict[str, str] = {}
    while len(pairs) < rows:
        text, answer = (_date, _quantity)[len(pairs) % 2](generator)
        if _split_of(answer) == split:
            pairs.setdefault(text, answer)
    shuffled = list(pairs.items())
    generator.shuffle(shuffled)
    return shuffled


def rewrite_preferences(split: Split, rows: int, seed: int = 0) -> list[tuple[str, str, str]]:
    """Return `rows` different texts of one split, each with its right answer and a wrong one.

    The wrong one is an answer that somebody may well write: of another form, such as 3.5.1998, or
    with a number that is not that of the text. Deterministic by (split, seed).

    Raises:
        ValueError: `rows` is not positive.
    """
    generator = generator_of("preferences", split, seed)
    return [
        (text, answer, generator.choice(wrong_forms(answer)))
        for text, answer in rewrite_pairs(split, rows, seed)
    ]


def wrong_forms(answer: str) -> list[str]:
    """Return answers that are near a right one, and wrong."""
    date = _DATE.fullmatch(answer)
    found = _wrong_dates(*date.groups()) if date else _wrong_quantities(*answer.split())
    return [form for form in dict.fromkeys(found) if form != answer]


def _wrong_dates(year: str, month: str, day: str) -> list[str]:
    name, short = MONTHS[int(month) - 1], f"{int(day)}"
    return [
        f"{year}/{month}/{day}",
        f"{day}-{month}-{year}",
        f"{short}.{int(month)}.{year}",
        f"{year}-{day}-{month}",
        f"{year}-{int(month)}-{short}",
        f"{short} {name} {year}",
        f"{year}-{month}-{int(day) % _DAYS + 1:02d}",
        f"{year}-{int(month) % len(MONTHS) + 1:02d}-{day}",
    ]


def _wrong_quantities(number: str, unit: str) -> list[str]:
    said = next(word for word, short in _UNITS.items() if short == unit)
    return [
        f"{number}{unit}",
        f"{number} {said}s",
        f"{number.replace('.', ',')} {unit}",
        f"{float(number):.2f} {unit}",
        f"{float(number) * 10:g} {unit}",
        f"{float(number) + 1:g} {unit}",
    ]


def _split_of(answer: str) -> Split:
    # Rows are split by the answer alone, so that the sets are disjoint whatever their seeds.
    return "validation" if zlib.crc32(answer.encode()) % _HELD_OUT == 0 else "train"


def _date(generator: random.Random) -> tuple[str, str]:
    year = generator.randint(*_YEARS)
    month, day = generator.randint(1, len(MONTHS)), generator.randint(1, _DAYS)
    name = MONTHS[month - 1]
    text = generator.choice(_DATES).format(
        year=year, month=name, short=name[:3], day=day, ordinal=_ordinal(day), word=_nth(day)
    )
    return text, f"{year}-{month:02d}-{day:02d}"


def _quantity(generator: random.Random) -> tuple[str, str]:
    whole, part = generator.randrange(100), generator.choice((0, *_FRACTIONS))
    unit = generator.choice(tuple(_UNITS))
    if whole == 0 and part == 0:
        whole = 100
    # 250 hundredths are written as 2.5, without zeros at the end.
    answer = f"{whole + part / 100:g} {_UNITS[unit]}"
    if whole == 0:
        return f"{_FRACTIONS[part][1]} {unit}", answer
    fraction = f" {_FRACTIONS[part][0]}" if part else ""
    plural = unit if whole == 1 and not part else f"{unit}s"
    return f"{_in_words(whole)}{fraction} {plural}", answer


def _in_words(number: int) -> str:
    if number < len(_ONES):
        return _ONES[number]
    if number == 100:
        return "one hundred"
    tens, ones = divmod(number, 10)
    return _TENS[tens] + (f"-{_ONES[ones]}" if ones else "")


def _nth(number: int) -> str:
    """Return 21 as "twenty-first"."""
    before, hyphen, last = _in_words(number).rpartition("-")
    return f"{before}{hyphen}{_ORDINALS.get(last, last + 'th')}"


def _ordinal(number: int) -> str:
    """Return 21 as "21st"."""
    if number in (11, 12, 13):
        return f"{number}th"
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th') }"
