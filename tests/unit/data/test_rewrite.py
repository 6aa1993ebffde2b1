"""The generated task rewrite, against an independent reading of its texts."""

import datetime
import re

import pytest

from lora2.data.builtin.rewrite import rewrite_pairs

UNITS = {
    "kilo": "kg", "kilogram": "kg", "gram": "g", "metre": "m", "meter": "m", "kilometre": "km",
    "kilometer": "km", "centimetre": "cm", "litre": "l", "liter": "l", "millilitre": "ml",
    "minute": "min", "second": "s",
}  # fmt: skip


def words(text: str) -> list[str]:
    return text.split()


ONES = words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
)
NUMBERS = {word: number for number, word in enumerate(ONES)} | {"one hundred": 100}
for tens, word in enumerate(
    words("twenty thirty forty fifty sixty seventy eighty ninety"), start=2
):
    NUMBERS[word] = 10 * tens
    NUMBERS |= {f"{word}-{ONES[one]}": 10 * tens + one for one in range(1, 10)}
FRACTIONS = {"a quarter": 0.25, "half": 0.5, "a half": 0.5, "three quarters": 0.75}
ORDINALS = {
    word: number
    for number, word in enumerate(
        words(
            "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth "
            "thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth "
            "twentieth twenty-first twenty-second twenty-third twenty-fourth twenty-fifth "
            "twenty-sixth twenty-seventh twenty-eighth"
        ),
        start=1,
    )
}
MONTHS = words(
    "january february march april may june july august september october november december"
)


def read_date(text: str) -> str | None:
    words = re.findall(r"[a-z-]+|\d+", text.lower())
    year = next((int(word) for word in words if re.fullmatch(r"\d{4}", word)), None)
    month = next(
        (n for n, name in enumerate(MONTHS, 1) if name in words or name[:3] in words), None
    )
    days = [int(word) for word in words if re.fullmatch(r"\d{1,2}", word)]
    days += [ORDINALS[word] for word in words if word in ORDINALS]
    if year is None or month is None:
        return None
    return datetime.date(year, month, days[0]).isoformat()


def read_quantity(text: str) -> str:
    text, _, unit = text.rpartition(" ")
    number = 0.0
    for part in text.removesuffix(" of a").removesuffix(" a").split(" and "):
        number += NUMBERS[part] if part in NUMBERS else FRACTIONS[part]
    unit = unit if unit in UNITS else unit.removesuffix("s")
    return f"{number:g} {UNITS[unit]}"


@pytest.mark.parametrize("split", ["train", "validation"])
def test_every_answer_is_what_the_text_says(split):
    pairs = rewrite_pairs(split, 1000)
    for text, answer in pairs:
        assert answer == (read_date(text) or read_quantity(text)), text
    assert sum("-" in answer for _, answer in pairs) == 500


def test_no_answer_of_validation_is_one_of_training_whatever_the_seeds():
    train = {answer for _, answer in rewrite_pairs("train", 3000, seed=1)}
    validation = {answer for _, answer in rewrite_pairs("validation", 1000, seed=2)}
    assert not train & validation


def test_no_text_occurs_twice():
    texts = [text for text, _ in rewrite_pairs("train", 3000)]
    assert len(set(texts)) == 3000


def test_a_seed_decides_the_rows():
    assert rewrite_pairs("train", 50, seed=3) == rewrite_pairs("train", 50, seed=3)
    assert rewrite_pairs("train", 50, seed=3) != rewrite_pairs("train", 50, seed=4)


def test_first_rows_stay_what_they_are():
    # Runs are compared across versions: other rows would be another task.
    assert rewrite_pairs("validation", 3) == [
        ("July 12th, 2096", "2096-07-12"),
        ("17 July 1913", "1913-07-17"),
        ("five liters", "5 l"),
    ]
