"""Figures from records: the numbers they draw, and that they draw."""

import dataclasses
import math

import pytest

from experiment_case import COLA, FIND, GRID, LORA, LORA2, MATCHED, by_run, failed, finished, runs
from lora2.lab.experiments.figures.curve_figure import Curve, curve, curve_figure, styles
from lora2.lab.experiments.figures.kept_figure import kept_figure, mean_kept
from lora2.lab.experiments.record import RunRecord
from lora2.lab.experiments.tables.grid import Grid, Row

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
RUNS = runs("cola")
ROW = Row("LoRA²", "lora2", "k=8", {"cola": RUNS})
ONE_ROW = Grid("figure3", "kept", (COLA, MATCHED), (ROW,))


def kept(query, value, dense):
    return {
        "encoder.layer.0.attention.self.query": query,
        "encoder.layer.0.attention.self.value": value,
        "encoder.layer.1.attention.self.query": dense,
    }


def adapter(run, *counts):
    metrics = {"matthews_correlation": 0.5}
    return finished(run, metrics, metrics, kept=kept(*counts), initial=8)


def evaluated(run, *values):
    entries = [{"step": 10 * n, "matthews_correlation": v} for n, v in enumerate(values, 1)]
    return RunRecord(run, "finished", evaluations=entries)


TWO_ADAPTERS = by_run(adapter(RUNS[0], 8, 0, 3), adapter(RUNS[1], 4, 1, 3), failed(RUNS[2]))


def test_kept_singular_values_are_means_over_the_finished_seeds():
    (panel,) = mean_kept(ONE_ROW, TWO_ADAPTERS)
    means = panel.means
    assert (panel.title, means.layers, means.matrices) == ("CoLA", ("0", "1"), ("query", "value"))
    assert means.counts == ((6.0, 0.5), (3.0, None))
    # Three matrices of eight each; 6 + 0.5 + 3 are left.
    assert (means.initial, means.total, panel.runs) == (24, 9.5, 2)


def test_panels_of_several_rows_say_which_row():
    other = Row("LoRA²", "lora2", "k=1", {"cola": runs("cola", k=1)})
    grid = Grid("figure3", "kept", (COLA,), (ROW, other))
    find = by_run(adapter(RUNS[0], 8, 0, 3), adapter(other.runs["cola"][0], 1, 1, 1))
    assert [panel.title for panel in mean_kept(grid, find)] == [
        "CoLA, LoRA² k=8",
        "CoLA, LoRA² k=1",
    ]


def test_methods_that_keep_no_singular_values_have_no_panel():
    assert mean_kept(GRID, FIND) == []
    assert kept_figure(GRID, FIND) is None


@pytest.mark.parametrize(
    ("seeds", "expected"),
    [
        # 20 and 40, then 60 and 70.
        ([(0.2, 0.6), (0.4, 0.7)], Curve((10, 20), (30.0, 65.0), (200**0.5, 50**0.5))),
        # The second seed was not evaluated at step 20.
        ([(0.2, 0.6), (0.4,)], Curve((10,), (30.0,), (200**0.5,))),
        ([(0.25,)], Curve((10,), (25.0,), (0.0,))),
        ([(0.2,), ()], None),
        ([], None),
    ],
)
def test_a_curve_is_the_mean_at_the_steps_of_all_seeds(seeds, expected):
    pairs = zip(RUNS, seeds, strict=False)
    find = by_run(*(evaluated(run, *values) for run, values in pairs))
    found = curve(ROW, COLA, find)
    if expected is None:
        assert found is None
    else:
        assert found.steps == expected.steps
        assert found.values == pytest.approx(expected.values)
        assert found.deviations == pytest.approx(expected.deviations)


def test_a_curve_of_a_loss_is_in_its_own_unit() -> None:
    loss = dataclasses.replace(COLA, scale=1)
    (run,) = runs("cola", seeds=1)
    records = by_run(finished(run, {COLA.metric: 1.3}, {COLA.metric: 1.2}))
    found = curve(dataclasses.replace(ROW, runs={"cola": (run,)}), loss, records)
    assert found is not None
    assert found.values == (1.3, 1.2)


def test_failed_runs_are_not_in_a_curve():
    find = by_run(evaluated(RUNS[0], 0.5), failed(RUNS[1]))
    assert curve(ROW, COLA, find) == Curve((10,), (50.0,), (0.0,))


def test_a_metric_that_is_nan_makes_its_step_nan():
    find = by_run(evaluated(RUNS[0], 0.2, math.nan), evaluated(RUNS[1], 0.4, 0.6))
    expected = Curve((10, 20), (30.0, math.nan), (200**0.5, math.nan))
    found = curve(ROW, COLA, find)
    assert found.values == pytest.approx(expected.values, nan_ok=True)
    assert found.deviations == pytest.approx(expected.deviations, nan_ok=True)


@pytest.mark.parametrize("values", [(0.2, math.nan), (math.nan, math.nan)])
def test_a_curve_that_ends_with_nan_is_drawn(values):
    assert curve_figure(ONE_ROW, by_run(evaluated(RUNS[0], *values))).startswith(PNG_SIGNATURE)


@pytest.mark.parametrize(
    ("draw", "grid", "find"),
    [(kept_figure, ONE_ROW, TWO_ADAPTERS), (curve_figure, GRID, FIND)],
    ids=["kept", "curves"],
)
def test_the_same_records_give_the_same_picture(draw, grid, find):
    picture = draw(grid, find)
    assert picture.startswith(PNG_SIGNATURE)
    assert picture == draw(grid, find)


@pytest.mark.parametrize("draw", [kept_figure, curve_figure])
def test_there_is_no_figure_before_any_run_has_finished(draw):
    assert draw(GRID, by_run(failed(LORA2.runs["cola"][0]), failed(LORA.runs["cola"][0]))) is None


@pytest.mark.parametrize("number", [13, 50])
def test_no_two_lines_of_a_figure_look_alike(number):
    rows = [Row(f"row {n}", "any", "", {}) for n in range(number)]
    assert len({(look["color"], look["linestyle"]) for look in styles(rows).values()}) == number


def test_lines_of_lora2_are_strong_among_others():
    rows = [Row(name, name, "", {}) for name in ("lora", "lora2", "sora")]
    widths = {name: look["linewidth"] for name, look in styles(rows).items()}
    assert widths["lora2"] > widths["lora"] == widths["sora"]


def test_the_first_line_is_strong_where_all_are_of_lora2():
    rows = [Row("LoRA²", "lora2", f"k={k}", {}) for k in (1, 2, 4)]
    first, *others = (look["linewidth"] for look in styles(rows).values())
    assert all(first > other for other in others)
