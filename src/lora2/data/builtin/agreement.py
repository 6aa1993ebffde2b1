"""Agreement: a subject-verb agreement task made from a small grammar, in minimal pairs as BLiMP's.

Each pair is one sentence with the right verb form (label 1) and the same sentence with the wrong
one (label 0). Between subject and verb are prepositional phrases or relative clauses whose nouns
may have the other number ("the keys to the cabinet are/*is"). Training and validation share no
noun, verb or adjective, so memorised word pairs do not help. Whoever sums up word vectors without
looking at their roles stays at chance: the task needs the encoder itself to change.
"""

import random
from dataclasses import dataclass

from lora2.data.builtin.drawing import Split, generator_of
from lora2.errors import UserError

LABEL_NAMES = ("unacceptable", "acceptable")


@dataclass(frozen=True)
class Vocabulary:
    """Open-class words of one split; nouns and verbs as (singular, plural) forms."""

    people: tuple[tuple[str, str], ...]
    things: tuple[tuple[str, str], ...]
    intransitive: tuple[tuple[str, str], ...]
    transitive: tuple[tuple[str, str], ...]
    adjectives: tuple[str, ...]


def _nouns(singular_forms: str) -> tuple[tuple[str, str], ...]:
    return tuple((noun, noun + "s") for noun in singular_forms.split())


def _verbs(plural_forms: str) -> tuple[tuple[str, str], ...]:
    return tuple((form + "s", form) for form in plural_forms.split())


_VOCABULARIES: dict[Split, Vocabulary] = {
    "train": Vocabulary(
        people=_nouns(
            "teacher doctor farmer pilot singer driver author lawyer "
            "neighbor student painter soldier guard waiter dancer uncle"
        ),
        things=_nouns(
            "table window garden letter picture bottle car house "
            "river island ticket engine road tower song blanket"
        ),
        intransitive=_verbs("smile wait sleep travel work arrive laugh disappear"),
        transitive=_verbs("admire help visit remember follow ignore"),
        adjectives=("old", "young", "quiet", "famous", "strange", "large", "red", "new"),
    ),
    "validation": Vocabulary(
        people=_nouns(
            "nurse manager banker baker actor sailor judge cousin customer writer gardener tailor"
        ),
        things=_nouns("chair door lamp book bridge mountain bag wall ship phone forest coat"),
        intransitive=_verbs("sing fall run return shout improve"),
        transitive=_verbs("love know thank want"),
        adjectives=("small", "happy", "green", "tall", "busy", "dark"),
    ),
}

_PREPOSITIONS = ("near", "behind", "with", "beside", "above", "from")
_AUXILIARIES = (("is", "are"), ("was", "were"))
_PREDICATES = ("here", "away", "ready", "very important", "gone", "not there")


def agreement_pairs(split: Split, sentences: int, seed: int = 0) -> tuple[list[str], list[int]]:
    """Return `sentences` sentences of one split and their labels (1 acceptable, 0 not).

    Deterministic by (split, seed); no sentence occurs twice.

    Raises:
        UserError: `sentences` is not a positive even number (they come in minimal pairs).
    """
    if sentences < 2 or sentences % 2:
        raise UserError(
            f"{split}_sentences: got {sentences}; write an even number of at least 2, since "
            f"the sentences come in pairs."
        )
    vocabulary = _VOCABULARIES[split]
    generator = generator_of("agreement", split, seed)
    texts: list[str] = []
    labels: list[int] = []
    seen: set[str] = set()
    while len(texts) < sentences:
        right, wrong = _minimal_pair(vocabulary, generator)
        if right in seen:
            continue
        seen.update((right, wrong))
        texts += [right, wrong]
        labels += [1, 0]
    order = list(range(sentences))
    generator.shuffle(order)
    return [texts[i] for i in order], [labels[i] for i in order]


def _minimal_pair(vocabulary: Vocabulary, generator: random.Random) -> tuple[str, str]:
    number = generator.randrange(2)  # 0 singular, 1 plural
    subject = generator.choice(vocabulary.people + vocabulary.things)
    words = ["the"]
    if generator.random() < 0.3:
        words.append(generator.choice(vocabulary.adjectives))
    words.append(subject[number])
    words += _attractor(vocabulary, generator)
    verb_forms, ending = _verb_phrase(vocabulary, generator)
    sentence = [*words, "{verb}", *ending]
    template = " ".join(sentence).capitalize() + "."
    return template.format(verb=verb_forms[number]), template.format(verb=verb_forms[1 - number])


def _attractor(vocabulary: Vocabulary, generator: random.Random) -> list[str]:
    """Words between subject and verb, with a noun of either number; in three of ten none."""
    kind = generator.random()
    if kind < 0.3:
        return []
    noun = generator.choice(vocabulary.things)[generator.randrange(2)]
    if kind < 0.7:
        return [generator.choice(_PREPOSITIONS), "the", noun]
    person_number = generator.randrange(2)
    person = generator.choice(vocabulary.people)[person_number]
    verb = generator.choice(vocabulary.transitive)[person_number]
    if kind < 0.9:
        return ["that", "the", person, verb]
    return [generator.choice(_PREPOSITIONS), "the", noun, "that", "the", person, verb]


def _verb_phrase(
    vocabulary: Vocabulary, generator: random.Random
) -> tuple[tuple[str, str], list[str]]:
    """The two forms of the main verb, and what follows it."""
    kind = generator.random()
    if kind < 0.6:
        return generator.choice(_AUXILIARIES), [generator.choice(_PREDICATES)]
    if kind < 0.85:
        return generator.choice(vocabulary.intransitive), []
    thing = generator.choice(vocabulary.things)[generator.randrange(2)]
    return generator.choice(vocabulary.transitive), ["the", thing]
