"""The preset of language models: its runs, and what its tables show."""

from dataclasses import replace

import pytest

from experiment_case import finished
from lora2.lab.experiments.presets import language
from lora2.lab.experiments.presets.registry import PRESETS
from lora2.lab.experiments.presets.small_sizes import pruned_to
from lora2.lab.experiments.presets.table_request import TableRequest
from lora2.lab.experiments.reproduction import tables_of
from lora2.lab.experiments.running.execution import Place, execute_run
from lora2.lab.experiments.running.feasibility import check_feasible
from lora2.lab.experiments.tables.summary import summarize


def grid(name="language"):
    return PRESETS["language"].grid(TableRequest(name, "smollm2", (0, 1, 2)))


def test_score_and_loss_are_of_the_same_runs():
    tables = ("language", "language-loss", "rates", "raised", "times")
    assert tables_of(PRESETS["language"]) == tables
    assert list(grid().descriptions()) == list(grid("language-loss").descriptions())
    assert len(list(grid().descriptions())) == 5 * 2 * 3


def test_pruned_rows_take_the_rate_of_the_unpruned_one():
    rows = {row.name: row.runs["snips"][0] for row in grid().rows}
    whole = rows["LoRA² k=8"]
    for rank in (2, 1):
        pruned = rows[f"LoRA² k=8 to {rank}"]
        assert pruned.options == {**whole.options, **pruned_to(rank)}
        assert pruned.options["budget_unit"] == "parameters"
    assert {run.options["train_rows"] for run in rows.values()} == {2000}
    assert {run.options["exact_match_rows"] for run in rows.values()} == {300}


def test_raised_rows_have_three_times_the_usual_rate_on_snips():
    usual, raised = (
        {row.name: row.runs for row in grid(name).rows} for name in ("language", "raised")
    )
    assert usual.keys() == raised.keys()
    for name, runs in raised.items():
        assert list(runs) == ["snips"]
        for run, at_usual in zip(runs["snips"], usual[name]["snips"], strict=True):
            rate = pytest.approx(3 * at_usual.options["learning_rate"])
            assert run.options == at_usual.options | {"learning_rate": rate}


def test_matches_are_percentages_and_losses_are_not():
    metrics = {"exact_match": 0.5, "validation_loss": 0.25}

    def find(run):
        return finished(run, metrics, metrics)

    for name, value in {"language": 50, "language-loss": 0.25}.items():
        table = summarize(grid(name), find)
        assert {cell.last.mean for row in table.rows for cell in row.cells} == {value}
        assert table.rows[0].average.last.mean == value


def tiny(model, task, **options):
    """The suite on a tiny model, with few rows."""
    few = {
        "train_rows": 32,
        "validation_rows": 4,
        "exact_match_rows": 2,
        "max_new_tokens": 2,
        "max_length": 192,
    }
    of_task = {**language.SMOLLM2.tasks[task], **few, "eval_steps": 2, **options}
    suite = replace(language.SMOLLM2, model=str(model), tasks={task: of_task})
    return [each.run(1e-3, 0) for each in suite.experiments(language._ROWS)]


def test_all_runs_are_feasible(language_model, tmp_path):
    # Sixteen steps, room for the schedules; a Llama of 16 wide has no place for more.
    runs = tiny(language_model, "rewrite", train_rows=128)
    check_feasible(runs, Place(tmp_path))


@pytest.mark.slow
def test_a_run_is_scored_by_its_answers(language_model, tmp_path):
    run = next(run for run in tiny(language_model, "rewrite") if run.method == "lora2")
    record = execute_run(run, Place(tmp_path))
    assert record.error is None
    assert record.main_metric == "exact_match"
    assert [entry["step"] for entry in record.evaluations] == [0, 2, 4]
    assert {"exact_match", "validation_loss"} <= record.last.keys()
