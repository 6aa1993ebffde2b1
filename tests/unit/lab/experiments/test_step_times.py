"""Steps of all rows of a table, in turns: what is measured, and the column that tables get."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from experiment_case import FIND, GRID, LORA, LORA2
from lora2.lab.experiments.measured.iteration_times import read_iteration_times
from lora2.lab.experiments.measured.step_table import step_table, with_steps
from lora2.lab.experiments.measured.step_times import (
    STEPS,
    measure_rows,
    read_step_times,
    runs_to_time,
    whole_step,
)
from lora2.lab.experiments.measured.times import ITERATIONS, MeasuredTimes
from lora2.lab.experiments.presets.registry import PRESETS
from lora2.lab.experiments.presets.table_request import TableRequest
from lora2.lab.experiments.running.execution import Place, settings_of
from lora2.lab.experiments.tables.grid import Row
from lora2.lab.experiments.tables.summary import summarize
from lora2.training.methods.registry import METHODS
from lora2.training.prepare import prepare
from run_case import tiny_run

# Ratios of the rounds: 0.5, 0.8 and 0.9; on the other task always 2.
TIMES = [
    MeasuredTimes(
        "cola", "tiny", 32, {"LoRA r=2": [2.0, 1.0, 1.0], "LoRA² k=1": [1.0, 0.8, 0.9]},
        2, "a CPU", {}, STEPS,
    ),
    MeasuredTimes(
        "mnli", "tiny", 32, {"LoRA r=2": [1.0, 2.0, 3.0], "LoRA² k=1": [2.0, 4.0, 6.0]},
        2, "a CPU", {}, STEPS,
    ),
]  # fmt: skip


def tiny_rows(tiny_model):
    """A method that prunes by a callback, and one of PEFT's with an optimizer of its own."""
    lora = tiny_run(tiny_model, "loraplus", peft_config={"r": 2}, loraplus_lr_ratio=4.0)
    of_lora2 = ("k", "init_r", "target_r", "tinit", "tfinal")
    options = {name: value for name, value in lora.options.items() if name not in of_lora2}
    return {"LoRA+": replace(lora, options=options), "LoRA²": tiny_run(tiny_model)}


def test_ratios_are_to_the_first_row_within_a_round():
    table = step_table(TIMES)
    assert table.heading[1:4] == ("cola, s", "cola, ratio", "cola, quartiles")
    ((first,), (second,)) = table.groups
    assert first[:4] == ("LoRA r=2", "1.000", "1.00", "1.00 to 1.00")
    assert second == (
        "LoRA² k=1", "0.900", "0.80", "0.65 to 0.85", "4.000", "2.00", "2.00 to 2.00",
    )  # fmt: skip
    assert "3 rounds" in table.notes[-1]


def test_the_column_of_a_table_is_the_mean_of_the_tasks_ratios():
    table = summarize(with_steps(GRID, TIMES), FIND)
    (measure,) = table.measures
    assert measure.label == "step, of LoRA r=2's"
    assert {row.row.name: row.measures[0].mean for row in table.rows} == {
        "LoRA² k=1": pytest.approx((0.8 + 2) / 2),
        "LoRA r=2": pytest.approx(1),
    }


def test_a_row_that_was_not_measured_has_no_number():
    alone = [MeasuredTimes("cola", "tiny", 32, {"LoRA r=2": [1.0]}, 2, "a CPU", {})]
    table = summarize(with_steps(GRID, alone), FIND)
    assert [row.measures[0] is None for row in table.rows] == [True, False]


def test_without_measured_steps_a_table_stays_as_it_is():
    assert with_steps(GRID, []) is GRID


def test_the_column_is_of_the_tables_own_tasks():
    of_cola = replace(GRID, columns=GRID.columns[:1])
    assert [column.task for column in of_cola.columns] == ["cola"]
    table = summarize(with_steps(of_cola, TIMES), FIND)
    assert {row.row.name: row.measures[0].mean for row in table.rows} == {
        "LoRA² k=1": pytest.approx(0.8),
        "LoRA r=2": pytest.approx(1),
    }
    of_stsb = replace(GRID, columns=(replace(GRID.columns[0], task="stsb"),))
    assert with_steps(of_stsb, TIMES) is of_stsb


def test_rows_that_show_a_cut_are_not_measured():
    cut = Row("LoRA, cut", "lora", "r=2 to 1", LORA.runs, cut=10)
    grid = type(GRID)("sizes", "Sizes", GRID.columns, (LORA, LORA2, cut))
    found = runs_to_time(grid)
    assert found.keys() == {"cola", "mnli"}
    assert list(found["cola"]) == ["LoRA r=2", "LoRA² k=1"]
    assert found["mnli"]["LoRA r=2"] == LORA.runs["mnli"][0]


def test_times_of_fewer_rows_or_rounds_are_measured_again(tmp_path):
    TIMES[0].write(tmp_path)
    runs = {row.name: row.runs["cola"][0] for row in (LORA, LORA2)}
    assert read_step_times(tmp_path, runs, rounds=3) == TIMES[0]
    assert read_step_times(tmp_path, runs, rounds=4) is None
    assert read_step_times(tmp_path, {**runs, "MiSS": runs["LoRA r=2"]}) is None


def test_times_of_more_rows_are_those_of_the_rows_asked_for(tmp_path):
    more = {"Old r=8": [9.0, 9.0, 9.0], **dict(reversed(TIMES[0].seconds.items()))}
    replace(TIMES[0], seconds=more).write(tmp_path)
    runs = {row.name: row.runs["cola"][0] for row in (LORA, LORA2)}
    found = read_step_times(tmp_path, runs)
    assert found == TIMES[0]
    assert list(found.seconds) == ["LoRA r=2", "LoRA² k=1"]


def test_times_of_rows_and_those_of_table_2_lie_side_by_side(tmp_path: Path) -> None:
    of_table2 = replace(TIMES[0], seconds={"adalora": [1.0], "lora2": [0.9]}, measured=ITERATIONS)
    of_table2.write(tmp_path)
    TIMES[0].write(tmp_path)
    runs = {row.name: row.runs["cola"][0] for row in (LORA, LORA2)}
    assert read_iteration_times(tmp_path, LORA.runs["cola"][0]) == of_table2
    assert read_step_times(tmp_path, runs) == TIMES[0]


def test_times_of_other_methods_are_not_those_of_table_2(tmp_path: Path) -> None:
    replace(TIMES[0], measured=ITERATIONS).write(tmp_path)
    assert read_iteration_times(tmp_path, LORA.runs["cola"][0]) is None


@pytest.mark.parametrize("name", ["leaderboard", "language"])
def test_a_preset_names_the_table_whose_rows_are_measured(name):
    preset = PRESETS[name]
    grid = preset.grid(TableRequest(preset.step_times, preset.model, (0,)))
    for runs in runs_to_time(grid).values():
        # What all others are compared with.
        assert next(iter(runs)) == "LoRA r=8"


def test_rows_take_turns_on_the_same_task(tiny_model, tmp_path):
    rows, steps = tiny_rows(tiny_model), []
    times = measure_rows(rows, Place(tmp_path, threads=1), 2, lambda: steps.append(1))
    assert {name: len(each) for name, each in times.seconds.items()} == {"LoRA+": 2, "LoRA²": 2}
    # A round of both warms up.
    assert len(steps) == 6
    assert all(second > 0 for each in times.seconds.values() for second in each)
    assert (times.task, times.model) == ("agreement", str(tiny_model))


def test_a_measured_step_prunes_and_clips_as_a_training_does(tiny_model, tmp_path):
    trainer = prepare(settings_of(tiny_run(tiny_model), Place(tmp_path))).trainer
    (callback,) = METHODS["lora2"].callbacks()
    norms = []
    clip = nn.utils.clip_grad_norm_

    def clipped(parameters, norm):
        norms.append(norm)
        return clip(parameters, norm)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.utils, "clip_grad_norm_", clipped)
        step = whole_step(trainer, [callback], list(trainer.get_train_dataloader()), 8)
        for _ in range(8):
            step()
    (allocator,) = callback.allocators.values()
    assert allocator.completed_steps == 8
    # From four singular values a matrix to two on average.
    assert allocator.budget == 24
    assert norms == [trainer.args.max_grad_norm] * 8
