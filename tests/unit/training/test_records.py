"""Records of evaluations are made from the trainer's log, and figures are drawn from logs."""

from pathlib import Path

import pytest

from lora2 import UserError
from lora2.reports.figures import draw_budget
from lora2.trainers.logs import BUDGET, KEPT_PARAMETERS, KEPT_VALUES
from lora2.training.on_disk.records import evaluation_records, read_lines, write_lines

EVALUATION = {"eval_accuracy": 0.5, "step": 2, "epoch": 1.0}


def log(step: int, **kept: int) -> dict[str, float]:
    return {"loss": 1.0, "step": step, **kept}


def test_a_budget_in_parameters_is_recorded_next_to_a_count_of_parameters() -> None:
    kept = {BUDGET: 900, KEPT_VALUES: 24, KEPT_PARAMETERS: 880}
    (record,) = evaluation_records([log(1), log(2, **kept), EVALUATION])
    assert {name: record[name] for name in kept} == kept


def test_a_budget_in_singular_values_has_no_count_of_parameters() -> None:
    (record,) = evaluation_records([log(2, **{BUDGET: 24, KEPT_VALUES: 24}), EVALUATION])
    assert KEPT_PARAMETERS not in record


def test_what_is_kept_is_that_of_the_evaluated_step() -> None:
    before = log(1, **{BUDGET: 30, KEPT_VALUES: 30})
    (record,) = evaluation_records([before, EVALUATION | {BUDGET: 24, KEPT_VALUES: 24}])
    assert (record[BUDGET], record[KEPT_VALUES]) == (24, 24)
    # Neither is lost where no log is between two evaluations.
    second = EVALUATION | {"step": 3, BUDGET: 20, KEPT_VALUES: 21}
    (_, record) = evaluation_records([before, EVALUATION, second])
    assert (record[BUDGET], record[KEPT_VALUES]) == (20, 21)


def test_the_training_loss_is_the_mean_over_steps_and_not_over_logs() -> None:
    history = [
        log(1) | {"loss": 8.0},
        log(10) | {"loss": 2.0},
        EVALUATION | {"step": 10},
        log(20) | {"loss": 3.0},
        EVALUATION | {"step": 20},
    ]
    losses = [record["train_loss"] for record in evaluation_records(history)]
    assert losses == pytest.approx([(8.0 + 9 * 2.0) / 10, 3.0])


def test_a_budget_is_drawn_from_a_log_that_lost_a_count(tmp_path: Path) -> None:
    kept = {BUDGET: 900, KEPT_VALUES: 24}
    draw_budget([log(1, **kept), log(2, **kept, **{KEPT_PARAMETERS: 880})], tmp_path / "a.png")
    assert (tmp_path / "a.png").is_file()


def test_a_count_of_parameters_that_is_no_number_is_refused(tmp_path: Path) -> None:
    write_lines(tmp_path / "log.jsonl", [{"step": 1, KEPT_PARAMETERS: "many"}])
    with pytest.raises(UserError, match=r"kept_parameters is 'many'"):
        read_lines(tmp_path / "log.jsonl")
