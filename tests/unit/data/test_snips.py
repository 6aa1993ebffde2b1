"""SNIPS: which rows are drawn, and what a user may get wrong."""

import json

import pytest

from lora2 import UserError
from lora2.data.loading.texts import load_text_task
from lora2.data.public.snips import SYSTEM, snips_pairs

ROWS = {"train": 40, "validation": 12}


@pytest.fixture
def folder(tmp_path):
    """Files of SNIPS's layout in a folder of its name."""
    made = tmp_path / "data" / "snips"
    made.mkdir(parents=True)
    for split, count in ROWS.items():
        rows = [
            {"prompt": f"{split} {number}", "completion": f'{{"n": {number}}}', "tokens": []}
            for number in range(count)
        ]
        (made / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return made


@pytest.mark.parametrize("split", ROWS)
def test_rows_are_drawn_by_the_seed_alone(split, folder):
    drawn = snips_pairs(folder, split, 10)
    assert drawn == snips_pairs(folder.parent, split, 10)
    assert len(set(drawn)) == 10
    assert all(text.startswith(split) for text, _ in drawn)
    assert drawn != snips_pairs(folder, split, 10, seed=1)
    assert sorted(snips_pairs(folder, split, ROWS[split], seed=2)) == sorted(
        (f"{split} {number}", f'{{"n": {number}}}') for number in range(ROWS[split])
    )


def test_a_row_is_a_conversation(folder):
    task = load_text_task("snips", data_dir=folder, train_rows=5, validation_rows=3)
    assert (len(task.train), len(task.validation["validation"])) == (5, 3)
    text, answer = snips_pairs(folder, "train", 5)[0]
    assert task.train[0] == {
        "prompt": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}],
        "completion": [{"role": "assistant", "content": answer}],
    }
    assert task.describe()["system"] == SYSTEM


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"data_dir": None}, "data_dir: the task snips is read from files; give the folder"),
        ({"data_dir": "nowhere"}, r"there is no snips/train\.jsonl nor train\.jsonl in nowhere"),
        ({"train_rows": 41}, r"train_rows: got 41; write a number from 1 to 40, the rows of"),
        ({"train_rows": 0}, "train_rows: got 0"),
        ({"validation_rows": 13}, "validation_rows: got 13; write a number from 1 to 12"),
        ({"text_columns": ["prompt"]}, "text_columns: it is for your own data"),
        ({"task": "rewrite"}, "is of no use to the generated task rewrite; leave it out"),
        ({"task": "snip"}, "task: got 'snip', .* write one of rewrite, snips"),
        ({"task": None, "train_file": "mine.jsonl"}, "does not go with data of your own"),
    ],
)
def test_what_cannot_be_meant_is_refused(changed, said, folder):
    options = {"data_dir": folder, "task": "snips", "train_rows": 5, "validation_rows": 3}
    with pytest.raises(UserError, match=said):
        load_text_task(**options | changed)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "play", "completion": ""}, "completion is blank in row 1"),
        ({"prompt": "play"}, "completion"),
        (
            {"prompt": [{"role": "user", "content": "a"}]}
            | {"completion": [{"role": "assistant", "content": "b"}]},
            "holds messages where queries and answers are expected",
        ),
        ("{", "row 1|line 1|not"),
    ],
)
def test_files_that_hold_something_else_are_refused(row, said, folder):
    (folder / "train.jsonl").write_text(row if isinstance(row, str) else json.dumps(row))
    with pytest.raises(UserError, match=said):
        snips_pairs(folder, "train", 1)
