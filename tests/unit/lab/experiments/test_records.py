"""What is run, and what it has written, as data and as files."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from experiment_case import failed, finished
from lora2.errors import UserError
from lora2.lab.experiments.description import RunDescription
from lora2.lab.experiments.rates import FILE_NAME, read_choices, write_choices
from lora2.lab.experiments.record import RecordFolder, RunRecord
from lora2.lab.experiments.tuning import Choice

OPTIONS = {"k": 8, "learning_rate": 1e-3, "target_modules": ["query", "key"], "target_r": None}
RUN = RunDescription("minilm", "cola", "lora2", OPTIONS, 1)
RECORD = finished(
    RUN,
    {"matthews_correlation": 0.7},
    {"matthews_correlation": 0.6},
    main_metric="matthews_correlation",
    steps=20,
    resumed_from_step=10,
    seconds=12.5,
    seconds_per_step=0.25,
    peak_memory=2**30,
    kept={"encoder.query": 3},
    initial=8,
    versions={"torch": "2.13.0"},
    machine={"cpu_cores": 2, "accelerators": []},
)


# --- descriptions ---


def test_the_identity_of_a_description_is_pinned():
    # Were it another, every record ever written would be orphaned.
    assert RUN.identity == "251e04abe404"
    assert RUN.name == "cola-lora2-s1-251e04abe404"


@pytest.mark.parametrize(
    "options",
    [
        dict(reversed(OPTIONS.items())),
        OPTIONS | {"k": 8.0},
        OPTIONS | {"learning_rate": 0.001},
        OPTIONS | {"target_modules": ("query", "key")},
    ],
    ids=["order", "whole number", "notation", "tuple"],
)
def test_descriptions_that_say_the_same_are_the_same(options):
    other = dataclasses.replace(RUN, options=options)
    assert other.identity == RUN.identity
    assert other == RUN
    assert len({other, RUN}) == 1


@pytest.mark.parametrize(
    ("first", "second"),
    [({"query": 4}, {"query": 4.0}), ([1, [2.0]], [1.0, (2,)]), ([{"a": 1.0}], [{"a": 1}])],
)
def test_whole_numbers_are_the_same_inside_other_values(first, second):
    ours, theirs = (dataclasses.replace(RUN, options={"x": value}) for value in (first, second))
    assert ours.identity == theirs.identity


@pytest.mark.parametrize(
    "changed",
    [
        {"model": "roberta-base"},
        {"task": "stsb"},
        {"method": "lora"},
        {"seed": 2},
        {"options": OPTIONS | {"k": 7}},
        {"options": OPTIONS | {"k": 8.5}},
        {"options": OPTIONS | {"k": "8"}},
        {"options": OPTIONS | {"target_modules": ["key", "query"]}},
        {"options": OPTIONS | {"lora_alpha": None}},
        {"options": {name: value for name, value in OPTIONS.items() if name != "target_r"}},
    ],
    ids=str,
)
def test_descriptions_that_differ_anywhere_are_not_the_same(changed):
    other = dataclasses.replace(RUN, **changed)
    assert other.identity != RUN.identity
    assert other != RUN


def test_a_description_is_not_equal_to_other_things():
    assert RUN.to_dict() != RUN


def test_a_description_survives_json():
    again = RunDescription.from_dict(json.loads(json.dumps(RUN.to_dict())))
    assert again == RUN
    assert again.to_dict() == RUN.to_dict()


# --- records ---


@pytest.mark.parametrize("record", [RECORD, failed(RUN)], ids=["finished", "failed"])
def test_a_record_is_read_back_as_it_was_written(record, tmp_path):
    folder = RecordFolder(tmp_path / "new" / "records")
    assert folder.find(RUN) is None
    folder.write(record)
    assert dataclasses.asdict(folder.find(RUN)) == dataclasses.asdict(record)
    assert [path.name for path in folder.path.iterdir()] == [f"{RUN.name}.json"]


def test_a_record_says_its_identity_first(tmp_path):
    folder = RecordFolder(tmp_path)
    folder.write(RECORD)
    assert next(iter(json.loads(folder.file_of(RUN).read_text()).items())) == (
        "identity",
        RUN.identity,
    )


def test_a_record_without_later_fields_is_read(tmp_path):
    folder = RecordFolder(tmp_path)
    content = RECORD.to_dict()
    del content["resumed_from_step"]
    folder.file_of(RUN).write_text(json.dumps(content))
    assert folder.find(RUN) == dataclasses.replace(RECORD, resumed_from_step=None)


def as_json(**changed):
    return json.dumps(RECORD.to_dict() | changed)


@pytest.mark.parametrize(
    "text",
    [
        "",
        as_json()[:-20],
        "[]",
        "null",
        "{}",
        as_json(description="cola"),
        as_json(description={"model": "minilm"}),
        as_json(description=RUN.to_dict() | {"options": ["k"]}),
        as_json(colour="red"),
        as_json(status="ended"),
        as_json(final_parameters={"adapter": "many"}),
        as_json(trainable_parameters=None),
        as_json(last={"matthews_correlation": "high"}),
        as_json(evaluations=[{"step": []}]),
        as_json(kept="all"),
        as_json(seconds="fast"),
        as_json(versions=None),
        json.dumps({"description": RUN.to_dict()}),
    ],
)
def test_a_file_that_is_no_record_is_refused(text, tmp_path):
    folder = RecordFolder(tmp_path)
    folder.file_of(RUN).write_text(text)
    with pytest.raises(UserError, match=r"is not a record of a run .*; remove it") as caught:
        folder.find(RUN)
    assert str(folder.file_of(RUN)) in str(caught.value)


def test_the_record_of_a_newer_version_is_not_called_damaged(tmp_path):
    folder = RecordFolder(tmp_path)
    folder.file_of(RUN).write_text(as_json(colour="red"))
    with pytest.raises(UserError, match=r"know 'colour'; remove it, or use the version that wrote"):
        folder.find(RUN)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    folder = RecordFolder(tmp_path)
    folder.file_of(RUN).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is not a record of a run"):
        folder.find(RUN)


def test_a_record_without_its_cuts_is_refused(tmp_path: Path) -> None:
    folder, run = RecordFolder(tmp_path), dataclasses.replace(RUN, cuts=(10,))
    folder.write(RunRecord(run, "finished"))
    with pytest.raises(UserError, match="is not a record of a run"):
        folder.find(run)
    folder.write(RunRecord(run, "finished", cuts=[{"size": 10}]))
    assert folder.find(run) is not None


def test_the_record_of_another_run_is_refused(tmp_path):
    folder = RecordFolder(tmp_path)
    other = dataclasses.replace(RUN, seed=7)
    folder.write(failed(other))
    folder.file_of(other).rename(folder.file_of(RUN))
    with pytest.raises(UserError, match="record of another run than its name says"):
        folder.find(RUN)


def test_missing_runs_are_those_without_a_finished_record_each_once(tmp_path):
    folder = RecordFolder(tmp_path)
    runs = [dataclasses.replace(RUN, seed=seed) for seed in range(3)]
    folder.write(dataclasses.replace(RECORD, description=runs[0]))
    folder.write(failed(runs[1]))
    assert folder.missing([runs[2], *runs, runs[2]]) == [runs[2], runs[1]]


# --- chosen learning rates ---

CHOICES = {
    "cola/lora-r8": Choice("cola/lora-r8", 5e-4, ((5e-4, 0.5), (1e-3, None), (2.5e-4, 0.25))),
    "agreement/head": Choice("agreement/head", 3e-3, ()),
}


def test_chosen_learning_rates_are_read_back_as_they_were_written(tmp_path):
    folder = tmp_path / "records"
    assert read_choices(folder) == {}
    write_choices(folder, CHOICES)
    assert read_choices(folder) == CHOICES
    assert list(read_choices(folder)) == sorted(CHOICES)


@pytest.mark.parametrize(
    "text", ["", "[]", "3", '{"cola/head": 0.1}', '{"cola/head": {"learning_rate": 0.1}}']
)
def test_a_damaged_file_of_learning_rates_is_refused(text, tmp_path):
    (tmp_path / FILE_NAME).write_text(text)
    with pytest.raises(UserError, match=re.escape(FILE_NAME) + ".*remove it"):
        read_choices(tmp_path)


def test_a_record_knows_whether_it_is_finished():
    assert RECORD.finished
    assert not failed(RUN).finished
    assert RunRecord(RUN, "failed").best is None
