"""Rows of texts: which forms there are, and what a user may get wrong in them."""

import json
import re
from pathlib import Path
from typing import get_args

import pytest

from lora2 import UserError
from lora2.data.loading.texts import load_text_rows, load_text_task
from lora2.data.tasks.writing_task import FORMS, Form, as_prompt, prompt_and_answer

USER = {"role": "user", "content": "2 + 2"}
ASSISTANT = {"role": "assistant", "content": "4"}
SYSTEM = {"role": "system", "content": "Calculate."}

ROWS = {
    "chat": {"messages": [SYSTEM, USER, ASSISTANT]},
    "prompt_completion": {"prompt": "2 + 2 =", "completion": " 4"},
    "messages in prompt and completion": {"prompt": [SYSTEM, USER], "completion": [ASSISTANT]},
    "text": {"text": "2 + 2 = 4"},
}


def write(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("case", ROWS)
def test_form_is_seen_from_the_columns(case, tmp_path):
    file = write(tmp_path / "mine.jsonl", *[ROWS[case]] * 10)
    task = load_text_task(train_file=file)
    assert task.form == ("prompt_completion" if "prompt" in case else case)
    assert task.conversational == (case not in ("prompt_completion", "text"))
    assert task.system == ("Calculate." if task.conversational else None)
    # A tenth is split off.
    assert (len(task.train), len(task.validation["validation"])) == (9, 1)
    assert task.train[0] == ROWS[case]
    assert load_text_rows(file, task.describe())[0] == ROWS[case]


def test_a_table_of_strings_will_do(tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text("prompt,completion\n2 + 2 =, 4\n1 + 1 =, 2\n")
    assert load_text_task(train_file=file).form == "prompt_completion"


@pytest.mark.parametrize("case", ["chat", "messages in prompt and completion"])
@pytest.mark.parametrize("separator", [",", "\t"])
def test_cells_of_csv_and_tsv_hold_messages_as_json(
    case: str, separator: str, tmp_path: Path
) -> None:
    row = ROWS[case]
    file = tmp_path / ("mine.csv" if separator == "," else "mine.tsv")
    cells = [json.dumps(value) for value in row.values()]
    if separator == ",":
        cells = ['"' + cell.replace('"', '""') + '"' for cell in cells]
    lines = [separator.join(row), *[separator.join(cells)] * 3]
    file.write_text("\n".join(lines) + "\n")
    task = load_text_task(train_file=file)
    assert task.conversational
    assert task.train[0] == row


def test_a_text_that_begins_as_a_list_is_a_text(tmp_path: Path) -> None:
    row = {"prompt": "[1, 2]", "completion": '[{"a": 1}]'}
    task = load_text_task(train_file=write(tmp_path / "mine.jsonl", *[row] * 3))
    assert not task.conversational
    assert task.train[0] == row


@pytest.mark.parametrize("name", ["tool_calls", "reasoning_content", "name", "tool_call_id"])
def test_what_a_template_writes_beside_the_content_is_not_lost(name: str, tmp_path: Path) -> None:
    answer = ASSISTANT | {name: [{"function": {"name": "add"}}]}
    file = write(tmp_path / "mine.jsonl", *[{"messages": [USER, answer]}] * 3)
    with pytest.raises(UserError, match=f"row 1 of .*mine.jsonl has '{name}' beside its content"):
        load_text_task(train_file=file)
    # Other keys, and empty ones, are left aside.
    plain = ASSISTANT | {name: None, "id": 7}
    file = write(tmp_path / "mine.jsonl", *[{"messages": [USER, plain]}] * 3)
    assert load_text_task(train_file=file).train[0] == {"messages": [USER, ASSISTANT]}


@pytest.mark.parametrize(("role", "learnt"), [("assistant", False), ("user", True)])
def test_an_answer_of_weight_zero_is_not_learnt(role: str, learnt: bool, tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "A?"}, {"role": "assistant", "content": "B."}]
    weighed = [m | {"weight": 0} if m["role"] == role else m for m in messages]
    file = write(tmp_path / "mine.jsonl", *[{"messages": weighed}] * 3)
    if learnt:
        assert load_text_task(train_file=file)
        return
    with pytest.raises(UserError, match=r"a message in .* has weight 0, and would be learnt"):
        load_text_task(train_file=file)


BESIDE = [("tools", [{"type": "function"}]), ("tools", '[{"type": "function"}]'),
          ("chat_template_kwargs", {"enable_thinking": False}), ("images", ["a.png"])]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), BESIDE)
@pytest.mark.parametrize("case", ["chat", "messages in prompt and completion"])
def test_what_a_template_writes_beside_the_messages_is_not_lost(
    case: str, name: str, value: object, tmp_path: Path
) -> None:
    rows = [ROWS[case], ROWS[case] | {name: value}]
    file = write(tmp_path / "mine.jsonl", *rows)
    with pytest.raises(UserError, match=f"row 2 of .*mine.jsonl has '{name}' beside its messages"):
        load_text_task(train_file=file)
    plain = write(tmp_path / "plain.jsonl", *[ROWS[case]] * 3)
    with pytest.raises(UserError, match=f"row 2 of .*mine.jsonl has '{name}' beside its messages"):
        load_text_task(train_file=plain, validation_file=file)


@pytest.mark.parametrize("nothing", [None, [], {}, "", "[]", {"enable_thinking": None}])
def test_nothing_beside_the_messages_is_left_aside(nothing: object, tmp_path: Path) -> None:
    row = ROWS["chat"] | {"tools": nothing}
    file = write(tmp_path / "mine.jsonl", *[row] * 3)
    assert load_text_task(train_file=file).train[0] == ROWS["chat"]


def test_a_column_beside_texts_is_left_aside(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.jsonl", *[ROWS["prompt_completion"] | {"tools": "hammer"}] * 3)
    assert load_text_task(train_file=file).train[0] == ROWS["prompt_completion"]


def test_texts_may_have_another_name(tmp_path):
    file = write(tmp_path / "mine.jsonl", *[{"story": "Once."}] * 3)
    task = load_text_task(train_file=file, text_columns=["story"])
    assert task.train[0] == {"text": "Once."}


def test_a_named_form_is_taken_among_several(tmp_path):
    file = write(tmp_path / "mine.jsonl", *[ROWS["chat"] | ROWS["text"]] * 3)
    assert load_text_task(train_file=file, text_columns=["messages"]).form == "chat"


def test_system_message_is_that_of_all_rows_or_none(tmp_path):
    file = write(tmp_path / "mine.jsonl", ROWS["chat"], {"messages": [USER, ASSISTANT]})
    assert load_text_task(train_file=file, validation_file=file).system is None


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([{"review": "Good."}], "no texts to learn from"),
        ([ROWS["chat"] | ROWS["text"]], "columns of several forms"),
        ([{"text": " "}], "text is blank in row 1"),
        ([ROWS["text"], {"text": None}], "text is empty in row 2"),
        ([{"prompt": "a", "completion": ""}], "completion is blank in row 1"),
        ([{"messages": "hello"}], "messages is 'hello' in row 1"),
        ([{"messages": []}], "messages is empty in row 1"),
        ([{"messages": [{"role": "user"}]}], "write a list of messages"),
        ([{"messages": [USER]}], "none of the role assistant"),
        (
            [ROWS["prompt_completion"], ROWS["messages in prompt and completion"]],
            "some are messages",
        ),
        ([{"prompt": [USER], "completion": [USER]}], "completion ends in .* role user in row 1"),
        ([{"prompt": [USER], "completion": [ASSISTANT, SYSTEM]}], "ends in .* role system in row"),
        ([ROWS["text"]], "a single row"),
    ],
)
def test_rows_that_cannot_be_used(rows, named, tmp_path):
    file = write(tmp_path / "mine.jsonl", *rows)
    with pytest.raises(UserError, match=named):
        load_text_task(train_file=file)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"task": "cola"}, "task: got 'cola'"),
        ({"task": "rewrite", "train_file": "mine.jsonl"}, "train_file"),
        ({"text_columns": ["messages"]}, "train_file: there is no training data"),
        ({"task": "rewrite", "text_columns": ["messages"]}, "text_columns: it is for your own"),
        ({"task": "rewrite", "dataset_config": "en"}, "dataset_config: it is for your own data"),
        ({"train_rows": 0}, "train_rows: got 0"),
        ({"validation_rows": 10**6}, "validation_rows: got 1000000"),
        ({"validation_file": "mine.jsonl"}, "train_file"),
        ({"train_file": "nowhere.jsonl"}, "nowhere.jsonl"),
    ],
)
def test_options_that_are_invalid(options, named):
    with pytest.raises(UserError, match=named):
        load_text_task(**options)


@pytest.mark.parametrize("learnt", ["prompt_completion", "messages in prompt and completion"])
def test_other_rows_are_of_the_kind_of_the_training_rows(learnt: str, tmp_path: Path) -> None:
    kinds = {"prompt_completion": "text", "messages in prompt and completion": "messages"}
    (other,) = kinds.keys() - {learnt}
    files = {case: write(tmp_path / f"{kinds[case]}.jsonl", *[ROWS[case]] * 3) for case in kinds}
    said = (
        f"text_columns: prompt, completion of {files[other]} are {kinds[other]}, and those of the "
        f"training rows are {kinds[learnt]}; write {kinds[learnt]} there, too."
    )
    with pytest.raises(UserError, match=f"^{re.escape(said)}$"):
        load_text_task(train_file=files[learnt], validation_file=files[other])
    task = load_text_task(train_file=files[learnt], validation_file=files[learnt])
    with pytest.raises(UserError, match=f"^{re.escape(said)}$"):
        load_text_rows(files[other], task.describe())


def test_two_columns_that_are_no_form(tmp_path):
    file = write(tmp_path / "mine.jsonl", *[{"a": "1", "b": "2"}] * 3)
    with pytest.raises(UserError, match="got a, b"):
        load_text_task(train_file=file, text_columns=["a", "b"])


def test_every_form_is_in_the_table():
    assert set(FORMS) == set(get_args(Form))


def test_only_the_forms_that_are_asked_for_are_read(tmp_path):
    both = [ROWS["prompt_completion"] | ROWS["text"]] * 3
    file = write(tmp_path / "mine.jsonl", *both)
    assert load_text_task(train_file=file, forms=["text"]).form == "text"
    for named in (None, ["text"]):
        with pytest.raises(UserError, match=r"; name messages\.$"):
            load_text_task(train_file=file, text_columns=named, forms=["chat"])


def test_texts_have_no_answers_to_match(tmp_path):
    file = write(tmp_path / "mine.jsonl", *[ROWS["text"]] * 3)
    with pytest.raises(UserError, match="exact_match_rows"):
        load_text_task(train_file=file, exact_match=True)


@pytest.mark.parametrize(
    ("row", "question"),
    [
        (ROWS["chat"], ([SYSTEM, USER], "4")),
        (ROWS["prompt_completion"], ("2 + 2 =", " 4")),
        (ROWS["messages in prompt and completion"], ([SYSTEM, USER], "4")),
        (ROWS["text"], None),
        ({"messages": [ASSISTANT, USER]}, None),
        ({"prompt": [USER], "completion": [ASSISTANT, USER, ASSISTANT]}, None),
    ],
)
def test_question_of_a_row(row, question):
    assert prompt_and_answer(row) == question


def test_words_of_a_user_become_what_the_run_has_learnt_from():
    assert as_prompt("2 + 2", {"conversational": False, "system": None}) == "2 + 2"
    assert as_prompt("2 + 2", {"conversational": True, "system": None}) == [USER]
    assert as_prompt("2 + 2", {"conversational": True, "system": "Calculate."}) == [SYSTEM, USER]
