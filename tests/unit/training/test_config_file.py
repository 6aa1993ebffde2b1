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
    "an unknown option": ("ranks: 2", "has the key 'ranks', which is no option"),
    "a name of other scripts": ("model_name_or_path: x", "; did you mean model?"),
    "an option of the command line": ("help: 1", "has the key 'help', which is no option"),
    "an option with a blank": ("'seed ': 1", "the key 'seed ', which is no option"),
    "an option and a value": ("'seed=3': 1", "the key 'seed=3', which is no option"),
    "the opposite of an option": ("no_tf: 1\nno-resume: true", "has the key 'no_tf', which is no"),
    "a switch that is negated": ("no-overwrite: true", "is no option; write `overwrite: false`."),
    "no in place of none": ("baseline: no", "baseline is 'no', and must be one of 'none', 'head'"),
    "bytes for a text": ("run_name: !!binary aGVsbG8=", "run_name is b'hello', and must be a text"),
    "a mapping for a text": ("run_name: {a: 1}", "run_name is a mapping, and must be a text"),
    "a list for a text": ("run_name: [a]", "run_name is a list, and must be a text"),
    "a set for a text": ("run_name: !!set {a}", "run_name is {'a'}, and must be a text"),
    "a truth value for a mapping": ("deepspeed: true", "deepspeed is 'true', and must be a map"),
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
        ("new_tokens: [on, 0x10, 1.10]\n", {"new_tokens": ["on", "0x10", "1.10"]}),
        ("output_dir: 1.0e+3\nlabel-column: no\n", {"output_dir": "1.0e+3", "label_column": "no"}),
        ("run_name: 2020-01-01\n", {"run_name": "2020-01-01"}),
        ("seed: &a 1\nrun_name: *a\n", {"seed": 1, "run_name": "1"}),
        ("eval_strategy: no\nreport_to: no\n", {"eval_strategy": "no", "report_to": ["no"]}),
        ("init_weights: true\nfsdp: true\n", {"init_weights": True, "fsdp": True}),
        ("lr_scheduler_kwargs: {a: no}\n", {"lr_scheduler_kwargs": {"a": False}}),
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
