"""summary.json is written and read by one class, whose types say what it may hold."""

import json
from pathlib import Path
from typing import Any

import pytest

from lora2 import UserError
from lora2.training.on_disk.summary import RunSummary

REACHED = {"accuracy": 0.5, "epoch": 1.0}
NEEDED: dict[str, Any] = {
    "task": "agreement",
    "method": "lora",
    "main_metric": "accuracy",
    "best": REACHED,
    "last": REACHED,
    "baseline": None,
    "final_parameters": {"adapter": 4, "head": 2},
}
RUN = RunSummary(**NEEDED, model="tiny", steps=3, seconds=1.5, seed=0, saved_bytes=9)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    RUN.write(tmp_path / "summary.json")
    assert RunSummary.read(tmp_path / "summary.json") == RUN


def test_a_file_has_only_the_keys_that_mean_something(tmp_path: Path) -> None:
    RUN.write(tmp_path / "run.json")
    trained = json.loads((tmp_path / "run.json").read_text())
    assert "peft_config" not in trained
    assert "combined" not in trained
    assert trained["resumed_from_step"] is None
    RunSummary(**NEEDED, combined=[{"run": "a", "weight": 1.0}]).write(tmp_path / "sum.json")
    assert list(json.loads((tmp_path / "sum.json").read_text())) == [
        "task", "model", "method", "main_metric", "best", "last", "before", "baseline", "combined",
        "trainable_parameters", "final_parameters", "versions",
    ]  # fmt: skip


def test_keys_of_other_versions_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "summary.json"
    file.write_text(json.dumps(NEEDED | {"of_a_later_version": 1}))
    assert RunSummary.read(file) == RunSummary(**NEEDED)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"best": 3}, "best is 3, and must be a mapping, or null; restore"),
        ({"saved_bytes": None}, "saved_bytes is null, and must be a whole number; restore"),
        ({"before": {"accuracy": "x"}}, "before: accuracy is 'x', and must be a number, or null"),
        ({"last": {"accuracy": 0.5}}, "last lacks the key 'epoch'"),
        ({"baseline": {}}, "lacks the key 'parameters'"),
    ],
)
def test_a_damaged_file_is_refused(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    file = tmp_path / "summary.json"
    file.write_text(json.dumps(NEEDED | change))
    with pytest.raises(UserError) as caught:
        RunSummary.read(file)
    assert says in str(caught.value)


@pytest.mark.parametrize("name", NEEDED)
def test_a_key_that_all_versions_write_may_not_be_missing(name: str, tmp_path: Path) -> None:
    file = tmp_path / "summary.json"
    file.write_text(json.dumps({key: value for key, value in NEEDED.items() if key != name}))
    with pytest.raises(UserError, match=f"lacks the key '{name}'"):
        RunSummary.read(file)
