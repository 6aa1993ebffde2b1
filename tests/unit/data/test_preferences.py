"""Rows of preferences: the generated ones, and which forms the user's own may have."""

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from language_model import write_rows
from lora2 import UserError
from lora2.data.builtin.rewrite import rewrite_pairs, rewrite_preferences, wrong_forms
from lora2.data.loading.preferences import load_preference_task
from lora2.data.loading.texts import load_text_rows
from lora2.data.tokenization.preferences import told_apart

USER = {"role": "user", "content": "2 + 2"}
GOOD, BAD = ({"role": "assistant", "content": text} for text in ("4", "5"))
ROWS: dict[str, dict[str, Any]] = {
    "preference": {"prompt": "2 + 2 =", "chosen": " 4", "rejected": " 5"},
    "preference, messages": {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
    "preference_pair": {"chosen": "2 + 2 = 4", "rejected": "2 + 2 = 5"},
    "preference_pair, messages": {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
}


def test_generated_rows_have_the_right_answers_of_rewrite_and_wrong_ones() -> None:
    rows = rewrite_preferences("train", 40, seed=3)
    assert rows == rewrite_preferences("train", 40, seed=3)
    assert [(text, right) for text, right, _ in rows] == rewrite_pairs("train", 40, seed=3)
    assert all(right != wrong for _, right, wrong in rows)
    task = load_preference_task(train_rows=8, validation_rows=2)
    assert [len(task.train), len(task.validation["validation"])] == [8, 2]
    assert (task.main_metric, task.form, task.conversational) == (
        "rewards/accuracies", "preference", True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("right", "some"),
    [
        ("1998-03-05", {"1998-05-03", "5.3.1998", "1998/03/05", "1998-03-06", "1998-04-05"}),
        ("2004-12-28", {"2004-12-01", "2004-01-28", "28 December 2004"}),
        ("2.5 kg", {"2.5kg", "2,5 kg", "2.50 kg", "25 kg", "3.5 kg", "2.5 kilos"}),
        ("7 min", {"7min", "7 minutes", "70 min", "8 min"}),
    ],
)
def test_wrong_forms_are_near_the_right_one(right: str, some: set[str]) -> None:
    found = wrong_forms(right)
    assert some <= set(found)
    assert right not in found
    assert len(found) == len(set(found)) >= 5


@pytest.mark.parametrize("case", ROWS)
def test_form_is_seen_from_the_columns(case: str, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "mine.jsonl", *[ROWS[case]] * 10)
    task = load_preference_task(train_file=file)
    assert task.form == case.split(",")[0]
    assert task.conversational == ("messages" in case)
    assert task.train[0] == ROWS[case]
    assert load_text_rows(file, task.describe())[0] == ROWS[case]


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"prompt": "a", "completion": "b"}, "no texts to learn from .* name prompt, chosen and reje"),
    ({"prompt": "a", "chosen": "b"}, "no texts to learn from"),
    ({"prompt": "a", "chosen": "", "rejected": "c"}, "chosen is blank in row 1"),
    ({"prompt": "a", "chosen": "b", "rejected": " "}, "rejected is blank in row 1"),
    ({"prompt": "a", "chosen": "b", "rejected": None}, "rejected is empty in row 1"),
    ({"prompt": 1, "chosen": "b", "rejected": "c"}, "prompt is 1 in row 1"),
    ({"prompt": "a", "chosen": "b", "rejected": "b"}, "chosen and rejected are the same in row 1"),
    ({"prompt": [USER], "chosen": "b", "rejected": "c"}, "some values are text and some are mes"),
    ({"prompt": [USER], "chosen": [], "rejected": [BAD]}, "chosen is empty in row 1"),
    ({"chosen": [GOOD], "rejected": [BAD]}, "in row 1 .* have no first ones in common"),
    ({"chosen": [USER], "rejected": [USER, BAD]}, "in row 1 .* have no first ones in common"),
    ({"chosen": [BAD, GOOD], "rejected": [USER, BAD]}, "in row 1 .* no first ones in common"),
    ({"prompt": [USER], "chosen": [{"role": "user"}], "rejected": [BAD]}, "chosen is .* in row 1"),
    ({"prompt": [USER], "chosen": [USER], "rejected": [BAD]}, "chosen ends in .* role user in row"),
    ({"chosen": [USER, GOOD], "rejected": [USER, USER]}, "rejected ends in .* role user in row 1"),
]


@pytest.mark.parametrize(("row", "said"), FAULTS)
def test_rows_that_are_no_preferences_are_refused(
    row: dict[str, Any], said: str, tmp_path: Path
) -> None:
    file = write_rows(tmp_path / "mine.jsonl", *[row] * 4)
    with pytest.raises(UserError, match=f"^text_columns: .*{said}"):
        load_preference_task(train_file=file)


@pytest.mark.parametrize("form", ["preference", "preference_pair"])
def test_other_rows_are_of_the_kind_of_the_training_rows(form: str, tmp_path: Path) -> None:
    text = write_rows(tmp_path / "text.jsonl", *[ROWS[form]] * 3)
    chat = write_rows(tmp_path / "chat.jsonl", *[ROWS[f"{form}, messages"]] * 3)
    for learnt, other in ((text, chat), (chat, text)):
        with pytest.raises(UserError, match=f"of {other} are .*, and those of the training rows"):
            load_preference_task(train_file=learnt, validation_file=other)
        task = load_preference_task(train_file=learnt)
        with pytest.raises(UserError, match=f"of {other} are .*, and those of the training rows"):
            load_text_rows(other, task.describe())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"task": "rewrite"}, "task: got 'rewrite', which is no task of preferences"),
        ({"task": "preferences", "train_file": "mine.jsonl"}, "train_file: it is for your own"),
        ({"text_columns": ["chosen"]}, "train_file: there is no training data"),
        ({"task": "preferences", "text_columns": ["chosen"]}, "text_columns: it is for your own"),
        ({"train_rows": 9000}, "train_rows: got 9000; write a number from 1 to 6,000"),
        ({"validation_rows": 0}, "validation_rows: got 0; write a number"),
    ],
)
def test_options_that_contradict_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=f"^{said}"):
        load_preference_task(**options)


@pytest.mark.parametrize(
    ("prompt", "max_length", "kept"), [(2, 6, [0, 1]), (2, 4, [1]), (6, 5, []), (8, 5, [])]
)
def test_rows_stay_whose_answers_differ_within_the_length(
    prompt: int, max_length: int, kept: list[int]
) -> None:
    rows = Dataset.from_dict(
        {
            "prompt_ids": [[9] * prompt] * 2,
            "chosen_ids": [[1, 1, 1, 2], [1, 2, 2, 2]],
            "rejected_ids": [[1, 1, 1, 3], [1, 3, 3, 3]],
            "number": [0, 1],
        }
    )
    assert told_apart(rows, max_length)["number"][:] == kept
