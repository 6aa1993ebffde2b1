"""One run in this process: what it records, how it goes on, and how it fails."""

import json
from dataclasses import replace

import pytest

from lora2.data.tasks.digests import DIGESTS
from lora2.errors import UserError
from lora2.lab.experiments.record import RunRecord
from lora2.lab.experiments.running.execution import Place, execute_run
from lora2.lab.experiments.running.feasibility import check_feasible
from lora2.training.on_disk.run_folder import RunFolder
from lora2.training.on_disk.run_lock import held
from run_case import STEPS, computed, tiny_run

pytestmark = pytest.mark.slow


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path / "work")


@pytest.fixture(scope="module")
def whole(tiny_model, tmp_path_factory):
    """The record of a run that nothing interrupted."""
    return execute_run(tiny_run(tiny_model), Place(tmp_path_factory.mktemp("work")))


class Killed(BaseException):
    pass


def kill_at(step):
    """A tick that ends a run after `step`."""

    def tick(done, steps):
        if done == step:
            raise Killed

    return tick


def ticks(description, place):
    """The record of a run, and the steps that were made for it."""
    steps = []
    record = execute_run(description, place, lambda done, of: steps.append((done, of)))
    return record, steps


# --- what is recorded ---


def test_a_record_holds_what_tables_need(whole):
    assert whole.finished
    assert whole.error is None
    assert whole.main_metric == "accuracy"
    assert [entry["step"] for entry in whole.evaluations] == [2, 4, 6, 8]
    assert whole.last == whole.evaluations[-1]
    assert whole.best in whole.evaluations
    assert whole.best["accuracy"] == max(entry["accuracy"] for entry in whole.evaluations)
    assert whole.steps == STEPS
    # Two layers of six matrices, from four singular values each to two on average.
    assert sum(whole.kept.values()) == 24
    assert whole.initial == 4
    assert whole.trainable_parameters["adapter"] > whole.final_parameters["adapter"] > 0
    assert whole.trainable_parameters["head"] == whole.final_parameters["head"] == 16 * 2 + 2
    assert {"python", "torch", "peft"} <= whole.versions.keys()
    assert {"processor", "cpu_capability", "cpu_cores", "torch_threads", "accelerators"} <= (
        whole.machine.keys()
    )


def test_a_record_of_a_method_of_peft_names_its_config(tiny_model, place):
    changed = {"k": None, "init_r": None, "target_r": None, "tinit": None, "tfinal": None}
    run = tiny_run(tiny_model, "miss", peft_config={"r": 4})
    options = {name: value for name, value in run.options.items() if name not in changed}
    record = execute_run(replace(run, options=options), place)
    assert record.finished, record.error
    content = record.description.to_dict()
    assert (content["method"], content["options"]["peft_config"]) == ("miss", {"r": 4})
    assert record.trainable_parameters["adapter"] == 2 * 4 * (5 * 16 + 32)


def test_a_record_holds_seconds_and_memory(whole):
    assert 0 < whole.seconds_per_step < whole.seconds
    # torch alone takes more than a hundred megabytes, the tiny model no ten gigabytes.
    assert 1e8 < whole.peak_memory < 1e10


def test_a_record_holds_what_the_file_weighs_and_what_was_lost(whole):
    # Five factors of 12 matrices and the head, in float32, with the header of the file.
    assert 4 * sum(whole.final_parameters.values()) < whole.file_bytes < 100_000
    assert 0 < whole.forgotten["distance"] < 1


def test_a_record_is_ready_for_json(whole):
    assert RunRecord.from_dict(json.loads(json.dumps(whole.to_dict()))) == whole


def test_steps_are_reported_one_by_one(tiny_model, place):
    assert ticks(tiny_run(tiny_model, "head"), place)[1] == [(n + 1, STEPS) for n in range(STEPS)]


def test_a_method_without_singular_values_has_none_to_start_with(tiny_model, place):
    record = execute_run(tiny_run(tiny_model, "lora"), place)
    assert (record.kept, record.initial) == ({}, None)


def test_a_run_that_was_never_evaluated_has_no_best(tiny_model, place):
    record = execute_run(tiny_run(tiny_model, "head", eval_strategy="no"), place)
    assert record.finished
    assert (record.evaluations, record.best, record.last) == ([], None, None)


# --- what was cut short ---


def test_a_run_goes_on_from_its_checkpoint_and_ends_with_the_same_numbers(tiny_model, place, whole):
    run = tiny_run(tiny_model)
    with pytest.raises(Killed):
        execute_run(run, place, kill_at(5))
    record, steps = ticks(run, place)
    assert [done for done, _ in steps] == [5, 6, 7, 8]
    assert record.resumed_from_step == 4
    assert computed(record) == computed(whole)


def test_a_checkpoint_that_was_cut_short_is_passed_over(tiny_model, place, whole):
    run = tiny_run(tiny_model)
    with pytest.raises(Killed):
        execute_run(run, place, kill_at(5))
    newest = place.work / run.name / "checkpoints" / "checkpoint-4"
    (newest / "trainer_state.json").unlink()
    record = execute_run(run, place)
    assert record.resumed_from_step == 2
    assert computed(record) == computed(whole)


def test_a_run_without_a_checkpoint_starts_anew(tiny_model, place, whole):
    run = tiny_run(tiny_model)
    with pytest.raises(Killed):
        execute_run(run, place, kill_at(1))
    record = execute_run(run, place)
    assert record.resumed_from_step is None
    assert computed(record) == computed(whole)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("adalora", {}),
        # An epoch has four steps.
        ("lora2", {"train_sampling_strategy": "group_by_length", "eval_steps": 1}),
    ],
)
def test_a_run_that_cannot_resume_starts_anew(method, options, tiny_model, place, tmp_path):
    run = tiny_run(tiny_model, method, **options)
    with pytest.raises(Killed):
        execute_run(run, place, kill_at(6))
    assert list((place.work / run.name / "checkpoints").glob("checkpoint-[45]"))
    record, steps = ticks(run, place)
    assert len(steps) == STEPS
    assert record.resumed_from_step is None
    assert computed(record) == computed(execute_run(run, Place(tmp_path / "other")))


def test_a_run_of_sorted_rows_resumes_from_the_end_of_an_epoch(tiny_model, place, tmp_path):
    run = tiny_run(tiny_model, train_sampling_strategy="group_by_length", eval_steps=4)
    with pytest.raises(Killed):
        execute_run(run, place, kill_at(6))
    record = execute_run(run, place)
    assert record.resumed_from_step == 4
    assert computed(record) == computed(execute_run(run, Place(tmp_path / "other")))


def test_a_run_whose_rows_have_changed_starts_anew(tiny_model, place, whole):
    run = tiny_run(tiny_model)
    with pytest.raises(Killed):
        execute_run(run, place, kill_at(5))
    task_file = place.work / run.name / "task.json"
    task = json.loads(task_file.read_text())
    task[DIGESTS] = dict.fromkeys(task[DIGESTS], "0" * 16)
    task_file.write_text(json.dumps(task))
    record, steps = ticks(run, place)
    assert len(steps) == STEPS
    assert record.resumed_from_step is None
    assert computed(record) == computed(whole)


def test_other_runs_in_the_work_folder_are_left_alone(tiny_model, place):
    runs = [tiny_run(tiny_model, seed=seed) for seed in (0, 1)]
    with pytest.raises(Killed):
        execute_run(runs[0], place, kill_at(3))
    execute_run(runs[1], place)
    assert ticks(runs[0], place)[0].resumed_from_step == 2


# --- failures ---


def test_an_option_that_raises_is_a_failure_in_one_line(tiny_model, place, capsys):
    record = execute_run(tiny_run(tiny_model, target_r=5), place)
    assert record.status == "failed"
    assert record.error.startswith("target_r=5 is above init_r=4")
    assert "\n" not in record.error
    assert record.machine["cpu_cores"]
    assert (record.evaluations, record.best, record.steps) == ([], None, 0)
    # For whoever looks into it; in a process of its own it goes to the log.
    assert "Traceback" in capsys.readouterr().err


def test_an_error_without_words_is_named_by_its_kind(tiny_model, place, monkeypatch):
    def fail(settings):
        raise ZeroDivisionError

    monkeypatch.setattr("lora2.lab.experiments.running.execution.prepare", fail)
    assert execute_run(tiny_run(tiny_model), place).error == "ZeroDivisionError"


def test_a_run_that_another_process_makes_is_left_to_it(tiny_model, place):
    run = tiny_run(tiny_model)
    with pytest.raises(Killed):
        execute_run(run, place, kill_at(5))
    with held(RunFolder(place.work / run.name)):
        record, steps = ticks(run, place)
    assert record.status == "elsewhere"
    assert "another process is training" in record.error
    assert steps == []
    assert execute_run(run, place).resumed_from_step == 4


@pytest.mark.parametrize(
    ("method", "error"), [("lora2", "NaN or infinity in"), ("lora", "training loss is nan at step")]
)
def test_a_run_that_diverges_says_so_and_where(tiny_model, place, method, error):
    record = execute_run(tiny_run(tiny_model, method, learning_rate=1e30), place)
    assert record.status == "diverged"
    assert error in record.error


# --- what would fail is found before ---


@pytest.mark.parametrize(
    ("method", "options", "reason"),
    [
        ("lora2", {"target_r": 5}, "target_r=5 is above init_r=4"),
        ("lora2", {"tinit": 100}, "of the 8 optimizer steps"),
        ("adalora", {"tinit": 4, "tfinal": 5}, "of the 8 optimizer steps"),
        ("sora", {"k": 0}, "k=0 must be"),
        ("lora", {"target_modules": ["nothing"]}, "target_modules: no module"),
        ("lora2", {"eval_strategy": "sometimes"}, "sometimes is not a valid"),
        ("lora2", {"train_sentences": 3}, "train_sentences: got 3"),
        ("lora2", {"learning_rat": 1e-3}, "learning_rat is no option of a run"),
        ("lora2", {"output_dir": "here"}, "output_dir is no option of a run"),
        ("lora3", {}, "method: 'lora3' is none of head"),
    ],
)
def test_the_first_impossible_run_is_named_and_nothing_is_written(
    method, options, reason, tiny_model, place, tmp_path
):
    good, bad, worse = (
        tiny_run(tiny_model),
        tiny_run(tiny_model, method, **options),
        tiny_run(tiny_model, method, seed=1, **options),
    )
    with pytest.raises(UserError) as caught:
        check_feasible([good, bad, worse], place)
    assert str(caught.value).startswith(f"{bad.name}: ")
    assert reason in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_steps_are_counted_for_each_size_of_the_data(tiny_model, place):
    schedule = {"tinit": 5, "tfinal": 3}
    long = tiny_run(tiny_model, train_sentences=64, **schedule)
    check_feasible([long], place)
    with pytest.raises(UserError, match="of the 8 optimizer steps"):
        check_feasible([long, tiny_run(tiny_model, **schedule)], place)


def test_a_model_that_is_missing_is_named(tmp_path, place):
    run = tiny_run(tmp_path / "nowhere")
    with pytest.raises(UserError, match=f"{run.name}: model: .*nowhere does not exist"):
        check_feasible([run], place)
