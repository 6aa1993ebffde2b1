"""Appointments: sentences with persons, places and dates, made from a small grammar.

All names are invented from the same syllables, so that the words around a name alone tell whether
it is of a person or of a place: "a letter from Tavina", "a train from Tavina". Training and
validation share no name and no date, and each has nouns and verbs of its own.
"""

from __future__ import annotations

import random
import re
import zlib
from dataclasses import dataclass

from lora2.data.builtin.drawing import MONTHS, Split, generator_of

TaggedSentence = tuple[list[str], list[str]]


@dataclass(frozen=True)
class Vocabulary:
    """Words of one split that tell persons from places.

    Attributes:
        sent: what comes from a person.
        routes: what comes from a place.
        speaking: what somebody does to a person.
        moving: how somebody gets to a place.
        sights: what a place has.
    """

    sent: tuple[str, ...]
    routes: tuple[str, ...]
    speaking: tuple[str, ...]
    moving: tuple[str, ...]
    sights: tuple[str, ...]


_VOCABULARIES: dict[Split, Vocabulary] = {
    "train": Vocabulary(
        sent=("letter", "call", "present", "answer", "poem", "photo"),
        routes=("train", "bus", "flight", "ferry", "road", "express"),
        speaking=("wrote", "spoke", "listened", "nodded"),
        moving=("moved", "drove", "travelled", "walked"),
        sights=("museum", "castle", "harbour", "market"),
    ),
    "validation": Vocabulary(
        sent=("email", "message", "postcard", "invitation"),
        routes=("tram", "plane", "coach", "boat"),
        speaking=("talked", "replied", "waved"),
        moving=("sailed", "cycled", "hiked"),
        sights=("cathedral", "beach", "theatre"),
    ),
}
# Slots of entities are in capitals.
_CLAUSES = (
    "the {sent} from PERSON came WHEN",
    "the {routes} from PLACE leaves WHEN",
    "the {routes} from PLACE was late and PERSON had to wait",
    "PERSON {speaking} to PERSON WHEN",
    "PERSON {moving} to PLACE WHEN",
    "WHEN PERSON {moving} from PLACE to PLACE",
    "PERSON says that the {sights} of PLACE opens WHEN",
    "the {sights} of PLACE is open WHEN",
    "the {sent} of PERSON arrived WHEN",
    "we meet PERSON in PLACE WHEN",
    "PERSON and PERSON return WHEN",
    "is PERSON still in PLACE ?",
    "the {sent} and the {routes} are late again",
    "WHEN the {routes} takes us to the {sights}",
)
_WHEN = ("on DATE", "before DATE", "after DATE", "DATE", "")
_SYLLABLES = (
    "ta", "vi", "na", "mo", "ler", "ka", "ri", "sol", "den", "bru", "el", "fa", "go", "hin", "jo",
    "lu", "mar", "pe", "ro", "sta", "un", "ve", "wil", "zan",
)  # fmt: skip
_BESIDE_A_PLACE = ("New NAME", "Port NAME", "NAME Bay", "NAME Falls")
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_DATES = ("{day} {month}", "{day} {month} {year}", "{month} {day}", "{weekday} , {day} {month}")
# One name or date in this many is kept for validation.
_HELD_OUT = 4
_WORD = re.compile(r"PERSON|PLACE|DATE|\S+")


def tagged_sentences(split: Split, rows: int, seed: int = 0) -> list[TaggedSentence]:
    """Return `rows` different sentences of one split: words, and a BIO tag for each.

    Deterministic by (split, seed).

    Raises:
        ValueError: `rows` is not positive.
    """
    if rows < 1:
        raise ValueError(f"rows must be at least 1; got {rows}.")
    generator = generator_of("appointments", split, seed)
    sentences: dict[str, TaggedSentence] = {}
    while len(sentences) < rows:
        tokens, tags = _sentence(split, generator)
        sentences.setdefault(" ".join(tokens), (tokens, tags))
    return list(sentences.values())


def _sentence(split: Split, generator: random.Random) -> TaggedSentence:
    vocabulary = _VOCABULARIES[split]
    words = {name: generator.choice(values) for name, values in vars(vocabulary).items()}
    clause = generator.choice(_CLAUSES).format(**words)
    clause = clause.replace("WHEN", generator.choice(_WHEN))
    tokens: list[str] = []
    tags: list[str] = []
    for word in _WORD.findall(clause):
        made = _entity(word, split, generator)
        tokens += made
        label = word.lower() if word in _MAKERS else None
        tags += ["O"] if label is None else [f"B-{label}"] + [f"I-{label}"] * (len(made) - 1)
    tokens[0] = tokens[0][0].upper() + tokens[0][1:]
    if tokens[-1] != "?":
        tokens, tags = [*tokens, "."], [*tags, "O"]
    return tokens, tags


def _entity(word: str, split: Split, generator: random.Random) -> list[str]:
    """Return the words of a slot, of those that belong to the split; another word as it is."""
    if word not in _MAKERS:
        return [word]
    while True:
        made = _MAKERS[word](generator)
        held_out = [zlib.crc32(part.encode()) % _HELD_OUT == 0 for part in made if _is_name(part)]
        whole = zlib.crc32(" ".join(made).encode()) % _HELD_OUT == 0
        of_split = held_out if held_out else [whole]
        if all(each == (split == "validation") for each in of_split):
            return made


def _is_name(word: str) -> bool:
    fixed = {*MONTHS, *_DAYS, *" ".join(_BESIDE_A_PLACE).split()}
    return word[0].isupper() and word not in fixed


def _name(generator: random.Random) -> str:
    count = generator.choice((2, 2, 3))
    return "".join(generator.choice(_SYLLABLES) for _ in range(count)).capitalize()


def _person(generator: random.Random) -> list[str]:
    return [_name(generator) for _ in range(generator.choice((1, 2)))]


def _place(generator: random.Random) -> list[str]:
    pattern = "NAME" if generator.random() < 0.7 else generator.choice(_BESIDE_A_PLACE)
    return pattern.replace("NAME", _name(generator)).split()


def _date(generator: random.Random) -> list[str]:
    return (
        generator.choice(_DATES)
        .format(
            day=generator.randint(1, 28),
            month=generator.choice(MONTHS),
            year=generator.randint(1900, 2099),
            weekday=generator.choice(_DAYS),
        )
        .split()
    )


_MAKERS = {"PERSON": _person, "PLACE": _place, "DATE": _date}
