"""Preset `leaderboard`: LoRA² next to PEFT's methods, at the size of LoRA of rank 8."""

from pathlib import Path

import pytest

from lora2.errors import UserError
from lora2.lab.experiments.place_arguments import PlaceArguments
from lora2.lab.experiments.presets import leaderboard
from lora2.lab.experiments.presets.minilm import MINILM
from lora2.lab.experiments.presets.registry import PRESETS
from lora2.lab.experiments.presets.table_request import TableRequest
from lora2.lab.experiments.tune_arguments import chosen_experiments
from lora2.lab.experiments.tuning import Choice
from lora2.training.methods.registry import METHODS
from lora2.training.options.arguments import RunSettings
from unit.tiny_transformers import bert_of_minilms_sizes

LORA = 331_776
LABELS = [
    "LoRA", "rsLoRA", "LoRA+", "DoRA", "PiSSA", "MiSS", "OFT", "HiRA", "Lily", "DeLoRA", "VeRA",
    "AdaLoRA", "SoRA", "LoRA²", "LoRA² → 1/4",
]  # fmt: skip
# Starts with half as many again, and prunes; two vectors a matrix.
OTHER_SIZES = {"AdaLoRA": 498_096, "VeRA": 29_952}


def grid(seeds=(0,), choices=None, table="leaderboard"):
    wanted = TableRequest(table, MINILM.model, seeds, choices or {})
    return PRESETS["leaderboard"].grid(wanted)


def test_its_rows_are_the_methods_on_three_tasks_with_three_seeds():
    assert [row.label for row in grid().rows] == LABELS
    assert [column.task for column in grid().columns] == ["agreement", "cola", "stsb"]
    assert PRESETS["leaderboard"].seeds == 3


def test_all_train_as_much_as_lora_where_they_can():
    model = bert_of_minilms_sizes()
    for row in grid().rows:
        (run,) = row.runs["cola"]
        options = RunSettings.from_options(dict(run.options)).adapter
        METHODS[row.method].check(options)
        counted = METHODS[row.method].count(model, options)
        expected = OTHER_SIZES.get(row.label, LORA)
        assert counted == pytest.approx(expected, rel=0.07), row.label


def test_the_heads_rate_is_one_for_all():
    rates = {run.options["head_learning_rate"] for run in grid().descriptions()}
    assert rates == {1e-3}


@pytest.mark.parametrize(
    ("label", "in_sizes"),
    [
        ("LoRA", "LoRA r=8"),
        ("AdaLoRA", "AdaLoRA r=12 to 8"),
        ("LoRA²", "LoRA² k=8, unpruned"),
        ("LoRA² → 1/4", "LoRA² k=8 to 2"),
    ],
)
def test_runs_that_the_table_of_sizes_has_too_are_made_once(label, in_sizes):
    (row,) = [row for row in grid().rows if row.label == label]
    sizes = PRESETS["small"].grid(TableRequest("sizes", MINILM.model, (0,)))
    other = next(each for each in sizes.rows if each.name == in_sizes)
    assert [run.identity for runs in row.runs.values() for run in runs] == [
        run.identity for runs in other.runs.values() for run in runs
    ]
    folders = {PlaceArguments().records_of(preset) for preset in ("small", "leaderboard")}
    assert folders == {Path("records/small")}


def all_chosen():
    names = {each.name for each in MINILM.experiments(leaderboard.TUNED_SETTINGS)}
    return {name: Choice(name, 0.123, ()) for name in names}


def identities(a_grid):
    return [run.identity for run in a_grid.descriptions()]


def test_the_usual_rates_have_a_table_that_no_search_changes():
    usual = grid(table="usual", choices=all_chosen())
    assert identities(usual) == identities(grid())
    assert [row.label for row in usual.rows] == LABELS
    assert not any("tuned" in note for note in usual.notes)
    # So times that were measured once stay the times of these rows.
    assert PRESETS["leaderboard"].step_times == usual.name


def test_what_is_chosen_here_changes_no_table_of_small():
    small = PRESETS["small"]
    for table in small.tables:
        plain, chosen = (
            small.grid(TableRequest(table, MINILM.model, (0,), choices))
            for choices in ({}, all_chosen())
        )
        assert identities(plain) == identities(chosen), table


def test_every_row_has_a_search_of_three_rates_and_takes_what_was_chosen():
    rates = {run.options["learning_rate"] for run in grid(choices=all_chosen()).descriptions()}
    assert rates == {0.123}
    for setting in leaderboard.TUNED_SETTINGS:
        search = setting.search
        assert search.low <= search.first / 3 < 3 * search.first <= search.high


def test_a_row_is_tuned_by_its_method_or_its_key():
    found = chosen_experiments("dora", "cola", "leaderboard")
    assert [each.name for each in found] == ["cola/dora-peft"]
    assert found == chosen_experiments("dora-peft", "cola", "leaderboard")
    with pytest.raises(UserError, match="'dora' is none of"):
        chosen_experiments("dora", None)


def test_it_is_of_one_model():
    with pytest.raises(UserError, match="the preset leaderboard is of minilm, not of bert"):
        PRESETS["leaderboard"].grid(TableRequest("leaderboard", "bert", (0,)))
