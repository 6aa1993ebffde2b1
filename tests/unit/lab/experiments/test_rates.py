"""The file of chosen learning rates, and what is wrong with a damaged one."""

import json
from pathlib import Path
from typing import Any

import pytest

from lora2.errors import UserError
from lora2.lab.experiments.rates import FILE_NAME, read_choices

ENTRY: dict[str, Any] = {"learning_rate": 1e-3, "trials": [[1e-3, 0.5], [3e-3, None]]}
DAMAGED: dict[str, tuple[Any, str]] = {
    "a text": ({"learning_rate": "x"}, "learning_rate is 'x', and must be a number"),
    "a truth value": ({"learning_rate": True}, "learning_rate is true, and must be a number"),
    "null": ({"learning_rate": None}, "learning_rate is null, and must be a number"),
    "zero": ({"learning_rate": 0}, "learning_rate of cola/lora=0 must be a finite number above 0"),
    "below zero": ({"learning_rate": -1}, "learning_rate of cola/lora=-1 must be"),
    "no trials": ({"trials": "abcdef"}, "trials is 'abcdef', and must be"),
    "a trial without a score": ({"trials": [[1e-3]]}, "trials of cola/lora must be pairs"),
    "a score that is a text": ({"trials": [[1e-3, "x"]]}, "trials of cola/lora must be pairs"),
}


def write(folder: Path, content: object) -> None:
    (folder / FILE_NAME).write_text(json.dumps(content))


def test_stored_choices_are_read(tmp_path: Path) -> None:
    write(tmp_path, {"cola/lora": ENTRY})
    choice = read_choices(tmp_path)["cola/lora"]
    assert (choice.learning_rate, choice.trials) == (1e-3, ((1e-3, 0.5), (3e-3, None)))


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_choice_is_named(case: str, tmp_path: Path) -> None:
    changed, said = DAMAGED[case]
    write(tmp_path, {"cola/lora": ENTRY | changed})
    with pytest.raises(UserError) as caught:
        read_choices(tmp_path)
    assert said in str(caught.value)
    assert FILE_NAME in str(caught.value)
