"""Runs in processes of their own: records, failures, killed processes, and leaving early."""

import dataclasses
import multiprocessing
import os
import re
import signal
import threading
from multiprocessing import forkserver
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiment_case import failed
from lora2.errors import UserError
from lora2.lab.experiments.record import RecordFolder
from lora2.lab.experiments.running import jobs
from lora2.lab.experiments.running.execution import Place, execute_run
from lora2.lab.experiments.running.jobs import LocalRunner
from run_case import STEPS, computed, tiny_run

pytestmark = pytest.mark.slow

# Long enough to be caught in the middle.
MANY_STEPS = 80
LONG = {"num_train_epochs": MANY_STEPS // 4, "eval_steps": 10}


@pytest.fixture
def records(tmp_path):
    return RecordFolder(tmp_path / "records")


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path / "work", threads=1)


def all_of(runner, runs):
    return {record.description: record for record in runner.each(runner.run, runs)}


def test_runs_leave_records_and_a_failure_leaves_one_too(tiny_model, records, place, tmp_path):
    good, bad = tiny_run(tiny_model), tiny_run(tiny_model, target_r=5)
    reported, steps = [], []
    with LocalRunner(
        records, place, 2, lambda *step: steps.append(step), reported.append
    ) as runner:
        made = all_of(runner, [bad, good])
    assert made == {run: records.find(run) for run in (good, bad)}
    assert sorted(record.status for record in reported) == ["failed", "finished"]
    assert steps == [(good, n + 1, STEPS) for n in range(STEPS)]
    assert made[bad].error.startswith("target_r=5 is above init_r=4")
    assert computed(made[good]) == computed(
        execute_run(good, dataclasses.replace(place, work=tmp_path / "other"))
    )
    assert made[good].machine["torch_threads"] == 1
    assert 0 < made[good].seconds_per_step < made[good].seconds
    assert 1e8 < made[good].peak_memory < 1e10
    # What a failed run printed is kept, for whoever looks into it.
    assert [path.name for path in place.work.iterdir()] == [f"{bad.name}.log"]
    assert "Traceback" in (place.work / f"{bad.name}.log").read_text()

    # What has a record is not made again; what failed is.
    steps.clear()
    with LocalRunner(
        records, place, 1, lambda *step: steps.append(step), reported.append
    ) as runner:
        again = all_of(runner, [good, bad])
    assert again == made
    assert steps == []
    assert [record.description for record in reported[2:]] == [good, bad]


def test_a_killed_run_is_a_failure_and_goes_on_from_its_checkpoint(tiny_model, records, place):
    run = tiny_run(tiny_model, **LONG)

    def kill(description, done, steps):
        # The checkpoint of step 10 is written when step 11 is done. A busy machine reports several
        # steps at once, also once the process has ended.
        if done >= 15:
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
    whole = execute_run(run, place)
    assert whole.resumed_from_step is None
    assert computed(record) == computed(whole)


def test_ctrl_c_ends_what_goes_on_and_writes_no_record(tiny_model, records, place):
    runs = [tiny_run(tiny_model, seed=seed, **LONG) for seed in (0, 1)]
    asked, reported, pressed = [], [], []

    def press_ctrl_c(description, done, steps):
        # A busy machine reports several steps at once.
        if done >= 15 and not pressed:
            pressed.append(done)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    def one_after_the_other(description):
        # As a search does: it would ask for the next run, whatever became of the first.
        for run in (description, *runs):
            asked.append(run)
            runner.run(run)

    runner = LocalRunner(records, place, 1, press_ctrl_c, reported.append)
    with pytest.raises(KeyboardInterrupt), runner:
        list(runner.each(one_after_the_other, runs))
    assert multiprocessing.active_children() == []
    assert asked == runs[:1]
    assert reported == []
    assert list(records.path.iterdir()) == []
    # What was made so far is there for the next time.
    assert (place.work / runs[0].name / "checkpoints" / "checkpoint-10").is_dir()
    assert not (place.work / runs[1].name).exists()


def test_a_work_folder_that_cannot_be_made_is_one_mistake_and_no_failed_runs(tmp_path, records):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"^work: .*file is a file; give a folder"):
        LocalRunner(records, Place(tmp_path / "file")).__enter__()


def test_a_records_folder_that_cannot_be_written_to_is_refused_before_a_run(tmp_path, place):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"^records: .*file is a file; give a folder"):
        LocalRunner(RecordFolder(tmp_path / "file"), place).__enter__()
    # Root may write to any folder, but nothing can be made in this one.
    with pytest.raises(UserError, match=r"^records: nothing can be written into /proc "):
        LocalRunner(RecordFolder(Path("/proc/records")), place).__enter__()


def test_a_run_whose_record_could_not_be_written_is_still_there(
    tiny_model, records, place, monkeypatch
):
    def full(record):
        raise OSError(28, "No space left on device")

    run = tiny_run(tiny_model)
    monkeypatch.setattr(records, "write", full)
    with LocalRunner(records, place) as runner, pytest.raises(OSError, match="No space"):
        runner.run(run)
    monkeypatch.undo()
    with LocalRunner(records, place) as runner:
        record = runner.run(run)
    assert record.resumed_from_step == record.steps == STEPS
    assert record == records.find(run)
    assert list(place.work.iterdir()) == []


@pytest.mark.parametrize(
    ("count", "visible", "jobs", "expected"),
    [
        (0, None, 2, ["", ""]),
        (2, None, 3, ["0", "1", "0"]),
        (2, "3,5", 2, ["3", "5"]),
        (1, "3,nonsense", 2, ["3", "3"]),
    ],
)
def test_a_run_sees_one_gpu(records, place, monkeypatch, count, visible, jobs, expected):
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    barrier, devices = threading.Barrier(jobs), []

    def make_on(device, description):
        barrier.wait(10)
        devices.append(device)
        return failed(description)

    runs = [tiny_run("model", seed=seed) for seed in range(jobs)]
    with LocalRunner(records, place, jobs) as runner:
        monkeypatch.setattr(runner, "_make_on", make_on)
        all_of(runner, runs)
    assert sorted(devices) == sorted(expected)


def test_the_process_of_a_run_sees_its_gpu_alone(place, monkeypatch):
    seen, sent = [], []

    def execute_here(description, place, tick):
        seen.append(os.environ["CUDA_VISIBLE_DEVICES"])
        return failed(description)

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,2,3")
    monkeypatch.setattr(jobs, "execute_in_own_process", execute_here)
    monkeypatch.setattr("signal.signal", lambda *arguments: None)
    run = tiny_run("model")
    jobs._child("3", run, place, SimpleNamespace(send=sent.append))
    assert seen == ["3"]
    assert sent == [failed(run)]


def test_less_than_one_job_is_refused(records, place):
    with pytest.raises(UserError, match="jobs=0 must be at least 1"):
        LocalRunner(records, place, 0)


def test_ctrl_c_does_not_reach_the_process_that_runs_are_forked_from(records, place):
    """Not even while it imports: a terminal sends it to all processes, and one has a traceback."""
    with LocalRunner(records, place):
        server = forkserver._forkserver._forkserver_pid
        status = Path(f"/proc/{server}/status").read_text()
    (blocked,) = re.findall(r"SigBlk:\s*(\w+)", status)
    assert int(blocked, 16) >> (signal.SIGINT - 1) & 1
