"""The files that are made from records."""

import dataclasses

import pytest

from experiment_case import FIND, GRID, LORA2, finished
from lora2.errors import UserError
from lora2.lab.experiments.description import RunDescription
from lora2.lab.experiments.measured.iteration_table import iteration_table
from lora2.lab.experiments.measured.iteration_times import read_iteration_times
from lora2.lab.experiments.measured.times import ITERATIONS, MeasuredTimes, file_of
from lora2.lab.experiments.outputs import write_grid, write_page
from lora2.lab.experiments.tables.grid import Grid, Row

NOTHING_RUN = dataclasses.replace(GRID, name="table3", title="Not begun")
# Ratios of the rounds: 0.5, 0.8 and 0.9.
TIMES = MeasuredTimes(
    "cola", "tiny", 32, {"adalora": [2.0, 1.0, 1.0], "lora2": [1.0, 0.8, 0.9]}, 2, "a CPU", {}
)
TIMED = RunDescription("tiny", "cola", "lora2", {}, 0)


def kept_grid():
    """A grid of the figure, and a record with singular values in two modules."""
    run = LORA2.runs["cola"][0]
    metrics = {"matthews_correlation": 0.5}
    kept = {"encoder.layer.0.attention.self.query": 3, "encoder.layer.0.output.dense": 1}
    record = finished(run, metrics, metrics, kept=kept, initial=4)
    row = Row("LoRA²", "lora2", "k=1", {"cola": (run,)})
    return Grid("figure3", "Kept", GRID.columns[:1], (row,)), {run: record}.get


def test_a_table_comes_in_three_forms_with_its_curves(tmp_path):
    names = {path.name for path in write_grid(GRID, FIND, tmp_path)}
    assert names == {"table1.md", "table1.tex", "table1.csv", "table1-curves.png"}
    assert names == {path.name for path in tmp_path.iterdir()}


def test_figure_3_is_drawn_from_records(tmp_path):
    written = list(write_grid(*kept_grid(), tmp_path))
    assert (tmp_path / "figure3.png") in written
    assert (tmp_path / "figure3.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_has_tables_and_figures_by_their_names(tmp_path):
    figure, find = kept_grid()
    page = write_page(
        "All", [GRID, figure], [iteration_table([TIMES])],
        lambda run: find(run) or FIND(run), tmp_path,
    )  # fmt: skip
    text = page.read_text(encoding="utf-8")
    for name in ("table1", "table1-curves", "figure3", "table2"):
        assert f'id="{name}"' in text
    # The figure is a picture; its grid is no table of the page.
    assert '<section id="figure3"' not in text
    assert page.name == "index.html"


def test_a_grid_without_a_finished_run_is_left_out_of_the_page(tmp_path):
    page = write_page("All", [NOTHING_RUN], [], lambda run: None, tmp_path)
    assert "table3" not in page.read_text(encoding="utf-8")


def test_times_are_medians_and_ratios_within_a_round():
    (line,) = iteration_table([TIMES]).groups[0]
    # Medians 1 and 0.9; of the ratios 0.8, with quartiles halfway between neighbours.
    assert line[:6] == ("cola", "1.000", "0.900", "0.800", "0.650 to 0.850", "3")
    assert line[6:] == ("1.01", "1.14", "1.13")


def test_a_task_that_the_paper_did_not_time_has_no_numbers_beside_it():
    (line,) = iteration_table([dataclasses.replace(TIMES, task="qnli")]).groups[0]
    assert line[6:] == ("–", "–", "–")


def test_times_are_read_as_they_were_written(tmp_path):
    TIMES.write(tmp_path)
    assert read_iteration_times(tmp_path, TIMED, rounds=3) == TIMES


@pytest.mark.parametrize(
    ("changed", "rounds"), [({"task": "stsb"}, 1), ({"model": "a/tiny"}, 1), ({}, 4)], ids=str
)
def test_times_of_something_else_are_not_taken_for_these(changed, rounds, tmp_path):
    TIMES.write(tmp_path)
    assert read_iteration_times(tmp_path, dataclasses.replace(TIMED, **changed), rounds) is None


@pytest.mark.parametrize("seconds", [["a", "b"], [0, 1], [1.0], [None, 1], [-1, 1], {"a": 1}])
def test_times_that_are_no_times_are_named(tmp_path, seconds):
    damaged = TIMES.seconds | {next(iter(TIMES.seconds)): seconds}
    dataclasses.replace(TIMES, seconds=damaged).write(tmp_path)
    with pytest.raises(UserError, match="seconds must be as many numbers above 0 of each method"):
        read_iteration_times(tmp_path, TIMED)


@pytest.mark.parametrize("text", ["{", "{}", "[]"])
def test_a_damaged_file_of_times_is_named(tmp_path, text):
    file_of(tmp_path, "tiny", "cola", ITERATIONS).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="holds no measured times"):
        read_iteration_times(tmp_path, TIMED)
