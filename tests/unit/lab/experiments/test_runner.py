"""What every runner does: what is found is not made again, what is made is recorded, once."""

import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from experiment_case import diverged, failed, finished
from lora2.errors import UserError
from lora2.lab.experiments.record import RecordFolder, RunRecord
from lora2.lab.experiments.running.runner import Runner, RunnerClosedError
from run_case import tiny_run

RUN = tiny_run("model")


@pytest.fixture
def records(tmp_path):
    return RecordFolder(tmp_path / "records")


class FakeRunner(Runner):
    """Makes records out of nothing, or what it is asked to."""

    def __init__(self, records, at_a_time=1, make=None):
        super().__init__(records, at_a_time, lambda record: self.reported.append(record))
        self.reported, self.made, self.cleared, self.ended = [], [], [], threading.Event()
        self._how = make or (lambda run: finished(run, {"accuracy": 0.5}, {"accuracy": 0.5}))

    def _make(self, description):
        self.made.append(description)
        return self._how(description)

    def _clear(self, description):
        # The record is safe by then.
        assert self._records.find(description).is_result
        self.cleared.append(description)

    def _end(self):
        self.ended.set()


@pytest.mark.parametrize("how", [None, diverged], ids=["finished", "diverged"])
def test_the_record_of_a_result_is_found_and_no_run_is_made(how, records):
    with FakeRunner(records, make=how) as first:
        record = first.run(RUN)
    with FakeRunner(records) as second:
        assert second.run(RUN) == record
    assert (first.made, second.made) == ([RUN], [])
    assert first.reported == second.reported == [record]
    # Twice: the first process may have been killed between writing and clearing.
    assert first.cleared == second.cleared == [RUN]


def test_a_failed_record_is_replaced(records):
    with FakeRunner(records, make=failed) as runner:
        assert runner.run(RUN).status == "failed"
        assert records.find(RUN).status == "failed"
        assert runner.cleared == []
    with FakeRunner(records) as runner:
        assert runner.run(RUN).finished
    assert records.find(RUN).finished


def elsewhere(run):
    return RunRecord(run, "elsewhere", error="another process is training into it")


def test_nothing_is_written_of_a_run_that_another_process_makes(records):
    with FakeRunner(records, make=elsewhere) as runner:
        assert runner.run(RUN).status == "elsewhere"
    assert [record.status for record in runner.reported] == ["elsewhere"]
    assert records.find(RUN) is None


def finished_otherwise(run):
    return finished(run, {"accuracy": 1.0}, {"accuracy": 1.0})


@pytest.mark.parametrize("here", [failed, elsewhere, finished_otherwise])
def test_what_another_process_has_finished_in_the_meantime_stays(here, records):
    theirs = finished(RUN, {}, {})

    def make(run):
        records.write(theirs)
        return here(run)

    with FakeRunner(records, make=make) as runner:
        assert runner.run(RUN) == theirs
    assert records.find(RUN) == theirs
    assert runner.reported == [theirs]


def test_a_damaged_record_is_refused_and_not_run_over(records):
    records.path.mkdir()
    records.file_of(RUN).write_text("{")
    with FakeRunner(records) as runner, pytest.raises(UserError, match="is not a record"):
        runner.run(RUN)
    assert runner.made == []
    assert records.file_of(RUN).read_text() == "{"


def test_a_fault_of_the_runner_itself_reaches_the_caller(records):
    with FakeRunner(records, make=lambda run: 1 / 0) as runner, pytest.raises(ZeroDivisionError):
        list(runner.each(runner.run, [RUN]))
    assert list(records.path.iterdir()) == []


def test_as_many_runs_go_on_at_a_time_as_were_asked_for(records):
    barrier = threading.Barrier(2)
    going_on, most = set(), []

    def together(run):
        going_on.add(run)
        # Raises if no other run comes within ten seconds.
        barrier.wait(10)
        most.append(len(going_on))
        barrier.wait(10)
        going_on.remove(run)
        return failed(run)

    runs = [dataclasses.replace(RUN, seed=seed) for seed in range(4)]
    with FakeRunner(records, 2, together) as runner:
        assert {record.description for record in runner.each(runner.run, runs)} == set(runs)
    assert most == [2] * 4


def test_a_run_that_was_ended_has_not_failed_but_one_that_finished_counts(records):
    other = dataclasses.replace(RUN, seed=1)
    going_on = threading.Barrier(3)

    def until_ended(run):
        going_on.wait(10)
        assert runner.ended.wait(10)
        return failed(run) if run == RUN else finished(run, {}, {})

    runner = FakeRunner(records, 2, until_ended)
    with ThreadPoolExecutor(2) as asking, runner:
        futures = [asking.submit(runner.run, run) for run in (RUN, other)]
        going_on.wait(10)
    assert isinstance(futures[0].exception(), RunnerClosedError)
    assert futures[1].result() == records.find(other)
    assert records.find(RUN) is None
    with pytest.raises(RunnerClosedError):
        runner.run(RUN)
