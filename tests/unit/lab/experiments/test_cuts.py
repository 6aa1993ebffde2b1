"""Finished adapters cut to smaller sizes: identity, record, and the rows that show a cut."""

import json
from dataclasses import replace

import pytest

from lora2.lab.experiments.figures.size_figure import size_figure, size_lines
from lora2.lab.experiments.presets.minilm import MINILM
from lora2.lab.experiments.presets.registry import PRESETS
from lora2.lab.experiments.presets.table_request import TableRequest
from lora2.lab.experiments.record import RunRecord
from lora2.lab.experiments.running.execution import Place, execute_run
from lora2.lab.experiments.tables.grid import Column, Grid, Row
from lora2.lab.experiments.tables.summary import summarize
from run_case import tiny_run

ACCURACY = Column("agreement_acc", "agreement", "agreement", "accuracy")


def test_cuts_are_part_of_an_identity_and_their_absence_is_not():
    run = tiny_run("model")
    assert "cuts" not in run.to_dict()
    cut = replace(run, cuts=(100, 50))
    assert cut.identity != run.identity
    assert type(run).from_dict(json.loads(json.dumps(cut.to_dict()))) == cut


def test_a_row_shows_the_run_or_one_of_its_cuts():
    run = replace(tiny_run("model"), cuts=(100, 50))
    evaluation = {"step": 8, "accuracy": 0.9}
    record = RunRecord(
        run,
        "finished",
        main_metric="accuracy",
        best=evaluation,
        last=evaluation | {"accuracy": 0.8},
        trainable_parameters={"adapter": 200, "head": 2},
        final_parameters={"adapter": 200, "head": 2},
        cuts=[
            {"size": 100, "parameters": 96, "error": 0.1, "accuracy": 0.7},
            {"size": 50, "parameters": 48, "error": 0.2, "accuracy": 0.6},
        ],
    )
    record = RunRecord.from_dict(json.loads(json.dumps(record.to_dict())))
    rows = tuple(
        Row("LoRA", "lora", f"cut {cut}", {"agreement": (run,)}, cut=cut) for cut in (None, 100, 50)
    )
    table = summarize(Grid("sizes", "sizes", (ACCURACY,), rows), lambda of: record, {})
    shown = [
        (row.cells[0].best.mean, row.cells[0].last.mean, row.parameters.final) for row in table.rows
    ]
    assert shown == [
        (pytest.approx(90), pytest.approx(80), None),
        (pytest.approx(70), pytest.approx(70), (96, 96)),
        (pytest.approx(60), pytest.approx(60), (48, 48)),
    ]


def test_the_figure_has_a_line_for_each_way_to_come_to_a_size():
    runs = {seed: replace(tiny_run("model", seed=seed), cuts=(100, 50)) for seed in (0, 1)}
    records = {}
    for seed, run in runs.items():
        evaluation = {"step": 8, "accuracy": 0.9 + 0.02 * seed}
        cuts = [
            {"size": size, "parameters": size - seed, "error": 0.1, "accuracy": 0.6 + size / 1000}
            for size in run.cuts
        ]
        sizes = {"adapter": 200, "head": 2}
        records[run] = RunRecord(
            run, "finished", best=evaluation, last=evaluation,
            trainable_parameters=sizes, final_parameters=sizes, cuts=cuts,
        )  # fmt: skip
    of_cell = {"agreement": tuple(runs.values())}
    rows = (
        Row("LoRA", "lora", "r=8", of_cell),
        *(Row("cut", "lora", str(size), of_cell, cut=size) for size in (100, 50)),
    )
    grid = Grid("sizes", "sizes", (ACCURACY,), rows)
    panels = size_lines(summarize(grid, records.get, {}))
    assert panels.keys() == {"average", "agreement"}
    line = panels["agreement"]["cut"]
    # Ascending, though the rows are not; of two runs the mean size.
    assert line.sizes == (49.5, 99.5)
    assert line.values == pytest.approx((65, 70))
    assert line.deviations == pytest.approx((0, 0), abs=1e-9)
    assert panels["average"]["LoRA"].sizes == (200,)
    assert panels["average"]["LoRA"].values == pytest.approx((91,))
    assert size_figure(grid, records.get).startswith(b"\x89PNG")
    assert size_figure(grid, lambda run: None) is None


def test_all_rows_of_the_table_of_sizes_have_one_rate_for_the_head():
    grid = PRESETS["small"].grid(TableRequest("sizes", MINILM.model, (0,)))
    assert {run.options["head_learning_rate"] for run in grid.descriptions()} == {1e-3}
    cut = [row for row in grid.rows if row.cut is not None]
    whole = {id(runs) for row in grid.rows if row.cut is None for runs in row.runs.values()}
    assert len(cut) == 8
    for row in cut:
        assert {row.cut} <= set(row.runs["cola"][0].cuts)
        assert row.runs["cola"][0] in [r.runs["cola"][0] for r in grid.rows if r.cut is None]
    assert len(whole) == 3 * (len(grid.rows) - 8)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "lora2"])
def test_an_adapter_is_cut_and_scored_at_every_size(method, tiny_model, tmp_path):
    options = {"k": 4, "target_r": None} if method == "lora2" else {"k": 4}
    whole = 12 * 4 * 32
    run = replace(tiny_run(tiny_model, method, **options), cuts=(10**6, whole, 100))
    record = execute_run(run, Place(tmp_path))
    uncut, _, least = record.cuts
    # Nothing is left out, so the score is that of the last evaluation.
    assert uncut["error"] == 0
    assert uncut["accuracy"] == pytest.approx(record.last["accuracy"])
    assert least["parameters"] <= 100
    assert least["error"] > 0
    assert [entry["size"] for entry in record.cuts] == list(run.cuts)
