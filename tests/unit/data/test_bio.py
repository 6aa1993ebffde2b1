"""BIO tags: entities of tags as CoNLL counts them, and tags of spans."""

import pytest

from lora2.data.tasks.bio import Span, is_tag, spans_of, tag_names, tags_of, words_of

# Tags, and the entities that the evaluation of CoNLL-2000 counts in them.
ENTITIES = {
    "O O": [],
    "B-x": [(0, 1, "x")],
    "B-x I-x O": [(0, 2, "x")],
    "O B-x I-x": [(1, 3, "x")],
    "B-x B-x": [(0, 1, "x"), (1, 2, "x")],
    "B-x I-y": [(0, 1, "x"), (1, 2, "y")],
    "I-x I-x O I-x": [(0, 2, "x"), (3, 4, "x")],
    "B-x O I-x": [(0, 1, "x"), (2, 3, "x")],
}


@pytest.mark.parametrize("tags", ENTITIES)
def test_entities_of_tags(tags):
    assert spans_of(tags.split()) == [Span(*each) for each in ENTITIES[tags]]


@pytest.mark.parametrize("tag", ["O", "B-x", "I-x", "B-two words", "B-a-b"])
def test_tags_of_the_scheme_are_known(tag):
    assert is_tag(tag)


@pytest.mark.parametrize("tag", ["", "x", "S-x", "B_x", "B-", "b-x", "o", "B- x", "OO"])
def test_other_words_are_no_tags(tag):
    assert not is_tag(tag)


def test_all_tags_of_types():
    assert tag_names(["a", "b"]) == ("O", "B-a", "I-a", "B-b", "I-b")


def test_punctuation_is_a_word_of_its_own():
    text = "Mr. O'Neil paid 3.50€"
    words = ["Mr", ".", "O", "'", "Neil", "paid", "3", ".", "50", "€"]
    assert [text[start:end] for start, end in words_of(text)] == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("हिन्दी भाषा।", ["हिन्दी", "भाषा", "।"]),
        ("ที่นี่", ["ที่นี่"]),
        ("שָׁלוֹם!", ["שָׁלוֹם", "!"]),
        ("Cafe\u0301.", ["Cafe\u0301", "."]),
        ("क्\u200dष", ["क्\u200dष"]),
        ("a ✌\ufe0f b", ["a", "✌\ufe0f", "b"]),
        ("\u0301a", ["\u0301", "a"]),
        ("x_1\xa0y", ["x_1", "y"]),
    ],
)
def test_combining_marks_are_of_their_word(text: str, words: list[str]) -> None:
    assert [text[start:end] for start, end in words_of(text)] == words


TEXT = "Ann flew to New York."


@pytest.mark.parametrize(
    ("spans", "tags"),
    [
        ([], "O O O O O O"),
        ([(0, 3, "p"), (12, 20, "l")], "B-p O O B-l I-l O"),
        # A word that a span cuts is all in it.
        ([(1, 2, "p")], "B-p O O O O O"),
        ([(3, 10, "v")], "O B-v I-v O O O"),
    ],
)
def test_tags_of_spans(spans, tags):
    assert tags_of(words_of(TEXT), [Span(*each) for each in spans]) == tags.split()


@pytest.mark.parametrize(
    ("spans", "reason"),
    [
        ([(3, 4, "p")], "3 to 4 (p) holds no word"),
        ([(0, 1, "p"), (2, 3, "q")], "2 to 3 (q) shares"),
    ],
)
def test_spans_that_have_no_tags(spans, reason):
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        tags_of(words_of(TEXT), [Span(*each) for each in spans])
    assert reason in str(raised.value)
