"""Runs as tasks of a Ray cluster: the records of local runs, also after a worker was killed."""

import json
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from command_line import lora2
from lora2.lab.experiments.record import RecordFolder
from lora2.lab.experiments.running.execution import Place, execute_run
from lora2.lab.experiments.running.ray_runner import RayRunner, Resources
from lora2.lab.experiments.running.runner import RunnerClosedError
from run_case import computed, tiny_run

pytestmark = pytest.mark.engines

STEPS = 160
LONG = {"num_train_epochs": STEPS // 4, "eval_steps": 20}
SECONDS = 240


@pytest.fixture
def records(tmp_path):
    return RecordFolder(tmp_path / "records")


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path / "work", threads=1)


def until(happened):
    """Wait until something is true, and return it."""
    end = time.monotonic() + SECONDS
    while not (value := happened()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return value


def kill_worker_of(run, cluster, place):
    """Kill the worker of a run, after its first checkpoint is complete."""
    until((place.work / run.name / "checkpoints" / "checkpoint-40").is_dir)
    workers = {process: name for process, name in cluster.workers().items() if run.name in name}
    (process,) = workers
    process.kill()


def test_three_runs_one_of_them_killed_give_the_records_of_local_runs(
    tiny_model, ray_cluster, records, place, tmp_path
):
    runs = [tiny_run(tiny_model, seed=seed, **LONG) for seed in range(3)]
    finished = []
    with (
        RayRunner(records, place, ray_cluster.address, finished=finished.append) as runner,
        ThreadPoolExecutor(1) as other,
    ):
        killing = other.submit(kill_worker_of, runs[0], ray_cluster, place)
        made = {record.description: record for record in runner.each(runner.run, runs)}
        killing.result()
    assert made.keys() == set(runs)
    assert made == {run: records.find(run) for run in runs}
    assert sorted(map(id, finished)) == sorted(map(id, made.values()))
    for run in runs:
        assert made[run].finished
        assert computed(made[run]) == computed(execute_run(run, Place(tmp_path / "local")))
        # A process of its own: not the sum of those that its worker made before.
        assert 1e8 < made[run].peak_memory < 2e9
    # Ray tried it again, and it went on.
    assert made[runs[0]].resumed_from_step >= 20
    assert made[runs[1]].resumed_from_step is None
    assert list(place.work.iterdir()) == []


def test_a_run_that_fails_leaves_its_failure_and_its_log(tiny_model, ray_cluster, records, place):
    run = tiny_run(tiny_model, target_r=5)
    with RayRunner(records, place, ray_cluster.address) as runner:
        record = runner.run(run)
    assert record == records.find(run)
    assert record.error.startswith("target_r=5 is above init_r=4")
    assert "Traceback" in (place.work / f"{run.name}.log").read_text()


def test_ctrl_c_ends_the_tasks_and_writes_no_record(tiny_model, ray_cluster, records, place):
    # So long that none ends by itself, however late the key is pressed on a busy machine.
    long = LONG | {"num_train_epochs": 25 * STEPS}
    runs = [tiny_run(tiny_model, seed=seed, **long) for seed in range(3)]
    ended = []

    def work(run):
        try:
            runner.run(run)
        except BaseException as error:
            ended.append(type(error))
            raise

    def press_ctrl_c():
        until(lambda: any((place.work / run.name / "checkpoints").is_dir() for run in runs))
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    runner = RayRunner(records, place, ray_cluster.address)
    with ThreadPoolExecutor(1) as other:
        other.submit(press_ctrl_c)
        with pytest.raises(KeyboardInterrupt), runner:
            list(runner.each(work, runs))
    assert ended == [RunnerClosedError] * 3
    assert list(records.path.iterdir()) == []
    until(lambda: not any("agreement" in name for name in ray_cluster.workers().values()))


def test_it_is_said_when_runs_must_wait_for_a_node(ray_cluster, records, place, caplog):
    with RayRunner(records, place, ray_cluster.address, Resources(2, 0)):
        assert caplog.text == ""
    with RayRunner(records, place, ray_cluster.address, Resources(1, 1)):
        assert "No node of the Ray cluster has 1 CPU cores and 1 GPUs" in caplog.text


# --- the command line ---


@pytest.mark.usefixtures("tiny_preset")
def test_tune_and_reproduce_on_a_cluster(ray_cluster, tmp_path, monkeypatch, capsys):
    # Relative folders are those of the command, not of the workers.
    monkeypatch.chdir(tmp_path)
    folders = ["--records=records", "--work=work"]
    ray = ["--launcher=ray", f"--ray_address={ray_cluster.address}", "--cpus_per_run=2"]
    assert lora2("tune", "head", "--trials=1", *folders, *ray) == 0
    assert lora2("reproduce", "table1", *folders, *ray) == 0
    said = capsys.readouterr().out
    assert "agreement/head at learning rate" in said
    assert "agreement head seed 0" in said
    assert "| head alone |" in said
    (record,) = (tmp_path / "records").glob("agreement-head-s0-*.json")
    # As many threads as cores.
    assert json.loads(record.read_text())["machine"]["torch_threads"] == 2
    assert list((tmp_path / "work").iterdir()) == []
