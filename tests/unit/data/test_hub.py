"""Datasets of the hub, or of a folder, as `--dataset` names them."""

from pathlib import Path

import pytest

from lora2.data.tables.hub import hub_tables
from lora2.errors import UserError

# What is in the files of a folder, and what is said of it.
DAMAGED = {
    "json": ({"train.jsonl": b'{"text": "a"}\n{"text": "a"\n'}, "JSON parse error"),
    "csv": ({"train.csv": b'text,label\na,x\n"a\nb'}, "EOF inside string"),
    "latin_1": ({"train.csv": b"text,label\ncaf\xe9,x\n"}, "'utf-8' codec can't decode"),
    "other_columns": (
        {"train.csv": b"text,label\na,x\n", "validation.csv": b"text,other\na,x\n"},
        "because column names don't match",
    ),
    "nothing": ({}, "doesn't contain any data files"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_folder_that_cannot_be_read_is_refused_in_one_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "mine"
    folder.mkdir()
    files, reason = DAMAGED[name]
    for file, content in files.items():
        (folder / file).write_bytes(content)
    with pytest.raises(
        UserError, match=r"dataset: .*could not be loaded from that folder"
    ) as caught:
        hub_tables(str(folder), None)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_tables_of_a_folder_are_its_splits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for split, rows in (("train", "a,x\nb,y\n"), ("validation", "c,x\n")):
        (tmp_path / f"{split}.csv").write_text(f"text,label\n{rows}")
    train, validation = hub_tables(str(tmp_path), None)
    assert validation is not None
    assert [row["text"] for row in train.records()] == ["a", "b"]
    assert [row["text"] for row in validation.records()] == ["c"]
