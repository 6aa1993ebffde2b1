"""Runs in processes of their own: records, failures, killed processes, and leaving early."""

import multiprocessing
import threading

import pytest

from lora2.experiments.execution import Place, execute
from lora2.experiments.jobs import LocalRunner
from lora2.experiments.record import RecordFolder
from run_case import STEPS, computed, tiny_run

# Long enough to be caught in the middle.
MANY_STEPS = 100
LONG = {"num_train_epochs": MANY_STEPS // 4, "eval_steps": 10}


@pytest.fixture
def records(tmp_path):
    return RecordFolder(tmp_path / "records")


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path / "work", threads=1)


def all_of(runner, runs):
    return {record.description: record for record in runner.each(runner.run, runs)}


# --- real processes ---


def test_runs_leave_records_and_a_failure_leaves_one_too(tiny_model, records, place):
    good, bad = tiny_run(tiny_model), tiny_run(tiny_model, target_r=5)
    told, steps = [], []
    with LocalRunner(records, place, 2, lambda *step: steps.append(step), told.append) as runner:
        made = all_of(runner, [bad, good])
    assert made == {run: records.find(run) for run in (good, bad)}
    assert sorted(record.status for record in told) == ["failed", "finished"]
    assert steps == [(good, n + 1, STEPS) for n in range(STEPS)]
    assert made[bad].error.startswith("target_r=5 is above init_r=4")
    assert computed(made[good]) == computed(execute(good, place))
    assert made[good].machine["torch_threads"] == 1
    assert 0 < made[good].seconds_per_step < made[good].seconds
    assert 1e8 < made[good].peak_memory < 1e10
    # What a failed run printed is kept, for whoever looks into it.
    assert [path.name for path in place.work.iterdir()] == [f"{bad.name}.log"]
    assert "Traceback" in (place.work / f"{bad.name}.log").read_text()

    # What has a record is not made again; what failed is.
    steps.clear()
    with LocalRunner(records, place, 1, lambda *step: steps.append(step), told.append) as runner:
        again = all_of(runner, [good, bad])
    assert again == made
    assert steps == []
    assert [record.description for record in told[2:]] == [good, bad]


def test_a_killed_run_is_a_failure_and_goes_on_from_its_checkpoint(tiny_model, records, place):
    run = tiny_run(tiny_model, **LONG)

    def kill(description, done, steps):
        # The checkpoint of step 10 is written when step 11 is done.
        if done == 15:
            for process in multiprocessing.active_children():
                process.kill()

    with LocalRunner(records, place, progress=kill) as runner:
        killed = runner.run(run)
    assert killed == records.find(run)
    assert killed.status == "failed"
    assert killed.error == "the process ended with exit code -9 and left no record"

    with LocalRunner(records, place) as runner:
        record = runner.run(run)
    assert record == records.find(run)
    assert record.finished
    assert 10 <= record.resumed_from_step < MANY_STEPS
    assert list(place.work.iterdir()) == []
    whole = execute(run, place)
    assert whole.resumed_from_step is None
    assert computed(record) == computed(whole)


def test_leaving_early_ends_what_goes_on_and_writes_nothing(tiny_model, records, place):
    run, waiting = (tiny_run(tiny_model, seed=seed, **LONG) for seed in (0, 1))
    going_on, told = threading.Event(), []

    def step(description, done, steps):
        if done == 15:
            going_on.set()

    def one_after_the_other(description):
        # As a search does: it would ask for the next run, whatever became of the first.
        return [runner.run(description), runner.run(waiting)]

    runner = LocalRunner(records, place, 1, step, told.append)

    def press_ctrl_c():
        with runner:
            results = runner.each(one_after_the_other, [run, waiting])
            assert going_on.wait(60) or next(results)
            raise KeyboardInterrupt

    # `each` hands the items out when it is asked for the first result.
    ask = threading.Thread(target=lambda: None)
    ask.start()
    with pytest.raises(KeyboardInterrupt):
        press_ctrl_c()
    assert multiprocessing.active_children() == []
