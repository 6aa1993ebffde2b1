"""`lora2 train --config FILE`: a fault names the file and the option; and a task nobody named."""

from pathlib import Path

import pytest

from command_line import refused
from lora2.commands.train_parser import TrainParser
from lora2.errors import UserError

REFUSED = {
    "null for a number": ("k: null", "k is null, and must be a whole number"),
    "null for a text": ("model:", "model is null, and must be a text"),
    "null for a choice": ("method: null", "method is null, and must be one of"),
    "null in a list": ("target_modules: [null]", "target_modules is a list"),
    "a text for a number": ("learning_rate: fast", "learning_rate is 'fast', and must be a number"),
    "a choice that is none": ("dtype: float8", "dtype is 'float8', and must be one of 'float32'"),
    "an enumeration": ("lr_scheduler_type: x", "must be one of linear, cosine"),
    "a list within a list": ("target_modules: [[query]]", "target_modules is a list"),
    "another option within a list": ("target_modules: [query, --k=5]", "target_modules is a list"),
    "a date within a mapping": ("k_pattern: {query: 2020-01-01}", "k_pattern is a mapping"),
    "a mapping that contains itself": ("k_pattern: &a {query: *a}", "k_pattern is a mapping"),
    "an option twice": ("k: 1\nk: 2", "the key 'k' twice"),
    "an option in two spellings": ("init_r: 1\ninit-r: 2", "the option init_r twice"),
    "another file": ("config: other.yaml", "a file cannot name another"),
    "an unknown option": ("ranks: 2", "--ranks is not an option"),
    "no options": ("- k", "holds a list in place of lines"),
    "too deep": ("k: " + "[" * 5000, "nested too deeply"),
    "too long": ("k: 0x" + "f" * 5000, "too many digits"),
}


@pytest.fixture(scope="module")
def parser() -> TrainParser:
    return TrainParser()


@pytest.mark.parametrize("case", REFUSED)
def test_a_fault_names_file_and_option(case: str, parser: TrainParser, tmp_path: Path) -> None:
    text, said = REFUSED[case]
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=r"^config: .*mine\.yaml") as caught:
        parser.given(["--config", str(file)])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("# nothing yet\n", {}),
        ("target_r: null\ntask:\n", {"target_r": None, "task": None}),
        ("learning_rate: 1e-3\nk: 4\n", {"learning_rate": 1e-3, "k": 4}),
        ("text-columns: [a, b]\n", {"text_columns": ["a", "b"]}),
    ],
)
def test_options_are_read(text: str, expected: dict, parser: TrainParser, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    assert parser.given(["--config", str(file)]) == expected


@pytest.mark.parametrize(
    ("option", "added"),
    [
        ("--text_columns=review", "--train_file"),
        ("--validation_file=more.csv", "--train_file"),
        ("--kind=regression", "--dataset"),
        ("--data_dir=glue", "--task"),
    ],
)
@pytest.mark.parametrize("objective", ["classification", "sft"])
def test_a_task_that_nobody_named_is_not_blamed(option, added, objective, tmp_path, capsys):
    run = tmp_path / "run"
    said = refused(capsys, "train", option, f"--objective={objective}", f"--output_dir={run}")
    assert option.split("=")[0].removeprefix("--") in said
    is_of_labels = option.startswith("--kind")
    assert ("no labels" if objective == "sft" and is_of_labels else added) in said
    assert "agreement" not in said
    assert "rewrite" not in said
    assert not run.exists()
