"""Tasks of tags: appointments, and the user's words with tags or texts with spans."""

import csv
import json

import datasets
import pytest

from command_line import save_tokenizer
from lora2.data.builtin.appointments import tagged_sentences
from lora2.data.loading.tags import load_tagged_rows, load_tagged_task
from lora2.data.tables import hub
from lora2.data.tasks.tagged_task import build_tagged
from lora2.data.tokenization.tags import tokenize_tagged
from lora2.errors import UserError
from lora2.training.base_models.preprocessors import load_tokenizer

WORDS = {"tokens": ["in", "New", "York"], "tags": ["O", "B-place", "I-place"]}
SPANS = {"text": "in New York.", "spans": [{"start": 3, "end": 11, "label": "place"}]}
LABELS = ("O", "B-place", "I-place")


def as_cells(row):
    return [cell if isinstance(cell, str) else json.dumps(cell) for cell in row.values()]


def write(path, *rows):
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(rows[0])
            writer.writerows(map(as_cells, rows))
    elif path.suffix == ".parquet":
        datasets.Dataset.from_list(list(rows)).to_parquet(path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_appointments_share_no_name_and_no_date_between_the_splits():
    entities = {}
    for split in ("train", "validation"):
        rows = tagged_sentences(split, 200)
        assert all(len(tokens) == len(tags) for tokens, tags in rows)
        entities[split] = {
            token
            for tokens, tags in rows
            for token, tag in zip(tokens, tags, strict=True)
            if tag in ("B-person", "I-person")
        }
    assert entities["train"]
    assert not entities["train"] & entities["validation"]
    assert tagged_sentences("train", 20) == tagged_sentences("train", 20)
    assert tagged_sentences("train", 20) != tagged_sentences("train", 20, seed=1)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ("caf\u00e9 ", "which differ in blanks alone"),
        ("cafe\u0301", "which look the same and are different characters"),
        ("caf\u00e9\u200b", "which look the same and are different characters"),
    ],
)
def test_types_of_entities_that_look_the_same_are_refused(other, words, tmp_path):
    rows = [WORDS | {"tags": ["O", f"B-{name}", f"I-{name}"]} for name in ("caf\u00e9", other)]
    both = write(tmp_path / "both.jsonl", *rows)
    with pytest.raises(UserError, match=rf"entities of the types .* \(row 2\), {words}"):
        load_tagged_task(train_file=both)
    train = write(tmp_path / "train.jsonl", *rows[:1])
    validation = write(tmp_path / "validation.jsonl", *rows[1:])
    with pytest.raises(UserError, match=f"row 1 of .*, and the training data has .*, {words}"):
        load_tagged_task(train_file=train, validation_file=validation)


def test_the_only_row_with_a_type_of_entity_is_for_training(tmp_path):
    rare = {"tokens": ["on", "Monday"], "tags": ["O", "B-day"]}
    file = write(tmp_path / "mine.jsonl", *[WORDS] * 9, rare)
    for seed in range(20):
        assert rare["tokens"] in load_tagged_task(train_file=file, data_seed=seed).train["tokens"]


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("row", [WORDS, SPANS], ids=["words", "spans"])
def test_rows_of_each_form_become_words_and_tags(row, ending, tmp_path):
    task = load_tagged_task(train_file=write(tmp_path / f"mine.{ending}", *[row] * 10))
    assert task.label_names == LABELS
    assert (len(task.train), len(task.validation["validation"])) == (9, 1)
    dot = ["."] if row is SPANS else []
    expected = {"tokens": ["in", "New", "York", *dot], "tags": [0, 1, 2, *[0 for _ in dot]]}
    assert task.train[0] == expected
    more = write(tmp_path / f"more.{ending}", row)
    assert load_tagged_rows(more, task.describe())[0] == expected


def test_the_hubs_lists_of_classes_are_tags(monkeypatch):
    features = datasets.Features(
        {
            "tokens": datasets.Sequence(datasets.Value("string")),
            "ner_tags": datasets.Sequence(datasets.ClassLabel(names=[*LABELS, "B-x", "I-x"])),
        }
    )
    rows = {"tokens": [WORDS["tokens"]] * 3, "ner_tags": [[0, 1, 2]] * 3}
    split = datasets.Dataset.from_dict(rows, features=features)
    monkeypatch.setattr(hub, "load_from_hub", lambda *_: {"train": split, "validation": split})
    task = load_tagged_task(dataset="somebody/names")
    assert task.label_names == (*LABELS, "B-x", "I-x")
    assert task.train[0] == {"tokens": WORDS["tokens"], "tags": [0, 1, 2]}


def with_cells(row, **cells):
    return {name: value for name, value in (row | cells).items() if value is not ...}


def span(*fields, **more):
    return dict(zip(("start", "end", "label"), fields, strict=False)) | more


# Name: the second row of the file, more options, what the sentence has.
BAD = {
    "no column of words": (with_cells(WORDS, tokens=...), {}, "no column called tokens"),
    "no column of tags": (with_cells(WORDS, tags=...), {}, "label_column"),
    "two columns of words": (WORDS | {"words": ["a"]}, {}, "several columns of words"),
    "a column that is not there": (WORDS, {"label_column": "ner"}, "no column 'ner'"),
    "two text columns": (WORDS, {"text_columns": ["tokens", "tags"]}, "the one column"),
    "one column for both": (
        WORDS, {"text_columns": ["tokens"], "label_column": "tokens"}, "is also the text column",
    ),
    "fewer tags than words": (WORDS | {"tags": ["O"]}, {}, "row 2 of MINE holds 1 tags for 3"),
    "a tag that is not BIO": (WORDS | {"tags": ["O", "S-x", "O"]}, {}, "'S-x', which is no BIO"),
    "tags that are numbers": (WORDS | {"tags": [0, 1, 2]}, {}, "0, which is no BIO tag"),
    "tags that are no list": (WORDS | {"tags": "O"}, {}, "write a list of tags"),
    "no tags": (WORDS | {"tags": None}, {}, "holds None; write a list of tags"),
    "words that are no list": (WORDS | {"tokens": "in Rome"}, {}, "write a list of words"),
    "an empty list": (WORDS | {"tokens": [], "tags": []}, {}, "an empty list; remove the row"),
    "a blank word": (WORDS | {"tokens": ["in", " ", "York"]}, {}, "' ', which is no text or blank"),
    "a word that is a number": (WORDS | {"tokens": ["in", 1, "a"]}, {}, "the word 1"),
    "a text without a word": (SPANS | {"text": " "}, {}, "write a text with a word"),
    "a text that is a list": (SPANS | {"text": ["in"]}, {}, "write a text with a word"),
    "spans that are no list": (SPANS | {"spans": "place"}, {}, "write a list of spans"),
    "a span without a label": (SPANS | {"spans": [span(0, 2)]}, {}, "and label as a word"),
    "a span of words": (SPANS | {"spans": [span("in", 2, "x")]}, {}, "as numbers"),
    "a span after the text": (SPANS | {"spans": [span(3, 99, "x")]}, {}, "has 12 characters"),
    "a span backwards": (SPANS | {"spans": [span(3, 3, "x")]}, {}, "end above start"),
    "spans that overlap": (
        SPANS | {"spans": [span(3, 11, "x"), span(0, 4, "y")]}, {}, "3 to 11 (x) overlaps 0 to 4",
    ),
    "a span of a blank": (SPANS | {"spans": [span(2, 3, "x")]}, {}, "2 to 3 (x) holds no word"),
    "two spans of one word": (
        SPANS | {"spans": [span(3, 4, "x"), span(5, 6, "y")]}, {}, "shares a word",
    ),
    "options that exclude each other": (WORDS, {"task": "appointments"}, "does not go with"),
    "no such task": (WORDS, {"task": "cola"}, "appointments, or name data"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_rows_that_cannot_be_used_are_refused_in_one_sentence(case, tmp_path):
    row, options, said = BAD[case]
    first = WORDS if "tokens" in row or "text" not in row else SPANS
    first = {name: cell for name, cell in first.items() if name in row}
    file = write(tmp_path / "mine.jsonl", first, row, first)
    with pytest.raises(UserError) as raised:
        load_tagged_task(train_file=file, **options)
    assert said.replace("MINE", str(file)) in str(raised.value)
    assert str(raised.value).count("_column: ") <= 1


def test_words_that_are_no_list_in_any_row(tmp_path):
    file = write(tmp_path / "mine.jsonl", *[{"tokens": "in Rome", "tags": "O B-place"}] * 3)
    with pytest.raises(UserError, match=r"row 1 of .* holds 'in Rome'; write a list of words"):
        load_tagged_task(train_file=file)


def test_a_first_text_that_reads_as_a_list_is_a_text(tmp_path):
    first = {"text": "[1]", "spans": [span(1, 2, "place")]}
    task = load_tagged_task(train_file=write(tmp_path / "mine.jsonl", first, *[SPANS] * 9))
    assert task.rows_of == "spans"


def test_nothing_to_learn(tmp_path):
    file = write(tmp_path / "mine.jsonl", *[{"tokens": ["a"], "tags": ["O"]}] * 3)
    with pytest.raises(UserError, match="marks no entity"):
        load_tagged_task(train_file=file)


def test_validation_of_a_type_that_training_lacks(tmp_path):
    files = {
        "train_file": write(tmp_path / "train.jsonl", *[WORDS] * 3),
        "validation_file": write(
            tmp_path / "more.jsonl", WORDS, {"tokens": ["Ann"], "tags": ["B-person"]}
        ),
    }
    with pytest.raises(UserError, match=r"row 2 of .*more.jsonl has .* type 'person', which"):
        load_tagged_task(**files)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    return load_tokenizer(str(folder))


def test_the_first_piece_of_a_word_carries_its_tag(tokenizer):
    rows = build_tagged([["the", "cab", "here"]], [[0, 1, 2]])
    (row,) = tokenize_tagged(rows, tokenizer, 16)
    assert tokenizer.convert_ids_to_tokens(row["input_ids"]) == [
        "[CLS]", "the", "c", "##a", "##b", "here", "[SEP]",
    ]  # fmt: skip
    assert row["first_pieces"] == [1, 2, 5]
    assert row["labels"] == [-100, 0, 1, -100, -100, 2, -100]


def test_what_is_cut_off_has_no_label(tokenizer):
    rows = build_tagged([["the", "cab", "here"]], [[0, 1, 2]])
    (row,) = tokenize_tagged(rows, tokenizer, 5)
    assert row["first_pieces"] == [1, 2, -1]
    assert row["labels"] == [-100, 0, 1, -100, -100]
    assert "labels" not in tokenize_tagged(rows.remove_columns("tags"), tokenizer, 5).column_names
