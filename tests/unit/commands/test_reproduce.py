"""`lora2 reproduce` and `lora2 tune`: from nothing to tables, on a preset of tiny runs."""

import json
import math
import sys
from dataclasses import replace

import pytest

from command_line import lora2, refused
from experiment_case import diverged, failed, finished
from lora2.errors import UserError
from lora2.lab.experiments.presets.registry import PRESETS
from lora2.lab.experiments.presets.task_suite import TUNING_SEED
from lora2.lab.experiments.rates import read_choices
from lora2.lab.experiments.record import RunRecord
from lora2.lab.experiments.running.jobs import LocalRunner
from lora2.lab.experiments.setting import Search, Setting
from run_case import STEPS, shrink_small_preset

pytestmark = pytest.mark.slow

SEARCH = Search(1e-4, 1e-3, 1e-1)
SETTINGS = (
    Setting("lora2-k2", "LoRA²", "lora2", "k=2", {}, SEARCH),
    Setting("lora-r2", "LoRA", "lora", "r=2", {}, SEARCH),
)
RATES = [1e-3, 3.33e-4, 3e-3]


@pytest.fixture(autouse=True)
def _tiny_preset(tiny_model, monkeypatch):
    """The preset `small`, of two methods on some sentences, one seed each."""
    shrink_small_preset(monkeypatch, tiny_model, SETTINGS)


class Runs:
    """Stands in for the processes: records by a formula of the run, and what was made."""

    def __init__(self, value):
        self.value, self.made = value, []

    def make(self, runner, description):
        self.made.append(description)
        value = self.value(description)
        if value is None:
            return failed(description)
        if math.isnan(value):
            return diverged(description)
        metrics = {"accuracy": value}
        return finished(description, metrics, metrics, main_metric="accuracy")


@pytest.fixture
def runs(monkeypatch):
    """Runs that are best at three times the usual learning rate."""
    found = Runs(lambda run: 1 / (1 + abs(math.log(run.options["learning_rate"] / 3e-3))))
    monkeypatch.setattr(LocalRunner, "_make", lambda runner, run: found.make(runner, run))
    return found


@pytest.fixture
def folders(tmp_path):
    return [f"--records={tmp_path / 'records'}", f"--work={tmp_path / 'work'}"]


def records_in(folder):
    """The contents of all records of a folder, by method."""
    contents = [json.loads(path.read_text()) for path in folder.glob("agreement-*.json")]
    return {content["description"]["method"]: content for content in contents}


# --- reproduce ---


def test_reproduce_makes_runs_in_processes_and_writes_the_table(folders, tmp_path, capsys):
    assert lora2("reproduce", "table1", *folders, "--jobs=2", "--threads=1") == 0
    said = capsys.readouterr().out
    made = records_in(tmp_path / "records")
    assert made.keys() == {"lora2", "lora"}
    for content in made.values():
        assert (content["status"], content["steps"]) == ("finished", STEPS)
        # A line for each run as it ends.
        accuracy = content["best"]["accuracy"]
        line = f"seed 0 ({content['identity']}): accuracy best {accuracy:.4f}, last"
        assert line in said
        assert f"{100 * accuracy:.2f} (1)" in said
    assert "Not tuned, at the usual learning rate: agreement/lora-r2, agreement/lora2-k2." in said
    tables = tmp_path / "records" / "tables"
    assert {"table1.md", "table1.tex", "table1.csv", "index.html"} <= {
        path.name for path in tables.iterdir()
    }
    assert (tables / "table1.md").read_text() in said
    assert list((tmp_path / "work").iterdir()) == []


def test_reproduce_makes_no_run_that_has_a_record(folders, runs, tmp_path, capsys):
    assert lora2("reproduce", "table1", *folders) == 0
    first = capsys.readouterr().out
    assert len(runs.made) == 2
    # No data are needed then.
    assert lora2("reproduce", "table1", *folders, "--data_dir=nowhere") == 0
    assert len(runs.made) == 2
    table = (tmp_path / "records" / "tables" / "table1.md").read_text()
    assert table in first
    assert table in capsys.readouterr().out


@pytest.mark.parametrize(("seeds", "in_table", "on_page"), [(1, 1, 2), (3, 3, 3)])
def test_the_page_shows_no_fewer_seeds_than_the_preset_has(
    folders, runs, monkeypatch, tmp_path, capsys, seeds, in_table, on_page
):
    monkeypatch.setitem(PRESETS, "small", replace(PRESETS["small"], seeds=2))
    assert lora2("reproduce", "table1", *folders) == 0
    assert lora2("reproduce", "table1", f"--seeds={seeds}", *folders) == 0
    tables = tmp_path / "records" / "tables"
    # The runs of a cell are in brackets.
    assert f"({in_table})" in (tables / "table1.md").read_text()
    page = (tables / "index.html").read_text()
    assert {n for n in (1, 2, 3) if f"({n})" in page} == {on_page}


def test_a_table_that_a_model_cannot_have_is_left_out_of_the_page(
    folders, runs, monkeypatch, tmp_path
):
    def grid(wanted):
        if wanted.table == "table4":
            raise UserError("weights: the matrices have no short names.")
        return tiny.grid(wanted)

    tiny = PRESETS["small"]
    preset = replace(tiny, tables=("table1", "table4"), grid=grid)
    monkeypatch.setitem(PRESETS, "small", preset)
    assert lora2("reproduce", "table1", *folders) == 0
    assert (tmp_path / "records" / "tables" / "index.html").is_file()


def test_brackets_in_an_error_are_printed_as_they_are(folders, monkeypatch, capsys):
    error = "[enforce fail at alloc.cpp:117] [/pytorch/gloo] no memory"
    monkeypatch.setattr(
        LocalRunner, "_make", lambda runner, run: RunRecord(run, "failed", error=error)
    )
    assert lora2("reproduce", "table1", *folders) == 1
    assert error in capsys.readouterr().out


def test_a_failed_run_stands_in_the_table_and_is_tried_again(folders, runs, capsys):
    usual = runs.value
    runs.value = lambda run: None if run.method == "lora2" else 0.5
    assert lora2("reproduce", "table1", *folders) == 1
    said = capsys.readouterr()
    assert "failed, out of memory" in said.out
    assert "1 failed" in said.out
    assert "Runs without a result: 1." in said.err
    runs.value, made = usual, len(runs.made)
    assert lora2("reproduce", "table1", *folders) == 0
    assert [run.method for run in runs.made[made:]] == ["lora2"]
    assert "1 failed" not in capsys.readouterr().out


def test_an_impossible_run_is_refused_before_anything_is_written(
    folders, tiny_model, monkeypatch, tmp_path, capsys
):
    settings = (SETTINGS[0], replace(SETTINGS[1], options={"k": 0}))
    shrink_small_preset(monkeypatch, tiny_model, settings)
    said = refused(capsys, "reproduce", "table1", *folders)
    assert "agreement-lora-s0-" in said
    assert "k=0 must be" in said
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_record_is_refused(folders, runs, tmp_path, capsys):
    assert lora2("reproduce", "table1", *folders) == 0
    path = next((tmp_path / "records").glob("agreement-lora2-*.json"))
    path.write_text("{")
    said = refused(capsys, "reproduce", "table1", *folders)
    assert f"{path} is not valid JSON" in said
    assert "not a record of a run" in said


def test_a_work_folder_that_is_a_file_is_refused(folders, tmp_path, capsys):
    (tmp_path / "work").write_text("mine")
    assert f"{tmp_path / 'work'} is a file" in refused(capsys, "reproduce", "table1", *folders)
    assert not (tmp_path / "records").exists()


def test_measured_steps_are_a_table_and_a_column_of_the_table_they_are_of(
    folders, runs, tmp_path, capsys
):
    options = [*folders, "--rounds=2"]
    assert lora2("reproduce", "times", *options) == 0
    said = capsys.readouterr().out
    assert "agreement, ratio" in said
    assert runs.made == []
    (file,) = (tmp_path / "records").glob("step-times-*.json")
    measured = file.read_bytes()
    assert lora2("reproduce", "times", *options) == 0
    assert file.read_bytes() == measured
    assert lora2("reproduce", "table1", *folders) == 0
    assert "step, of LoRA² k=2's" in capsys.readouterr().out
    page = (tmp_path / "records" / "tables" / "index.html").read_text()
    assert 'id="times"' in page


def test_tables_of_the_measured_rows_have_the_column_and_others_do_not(
    folders, runs, capsys, monkeypatch
):
    tiny = PRESETS["small"]

    def grid(request):
        whole = replace(tiny.grid(replace(request, table="table1")), name=request.table)
        return replace(whole, rows=whole.rows[:1]) if request.table == "table4" else whole

    preset = replace(tiny, tables=("table1", "table3", "table4"), grid=grid)
    monkeypatch.setitem(PRESETS, "small", preset)
    assert lora2("reproduce", "times", "--rounds=2", *folders) == 0
    capsys.readouterr()
    for table, has in (("table3", True), ("table4", False)):
        assert lora2("reproduce", table, *folders) == 0
        assert ("step, of LoRA² k=2's" in capsys.readouterr().out) is has, table


# --- tune ---


def test_tune_tries_every_method_alike_and_keeps_what_it_chose(folders, runs, tmp_path, capsys):
    assert lora2("tune", "all", *folders) == 0
    said = capsys.readouterr().out
    tried = {
        method: [run.options["learning_rate"] for run in runs.made if run.method == method]
        for method in ("lora2", "lora")
    }
    assert tried == {"lora2": RATES, "lora": RATES}
    assert {run.seed for run in runs.made} == {TUNING_SEED}
    choices = read_choices(tmp_path / "records")
    assert choices.keys() == {"agreement/lora2-k2", "agreement/lora-r2"}
    for choice in choices.values():
        assert choice.learning_rate == 3e-3
        assert [rate for rate, _ in choice.trials] == RATES
        assert choice.trials[2][1] == 1
        assert choice.experiment in said
    # Trials lie apart from what tables report.
    assert records_in(tmp_path / "records") == {}
    assert len(list((tmp_path / "records" / "tuning").iterdir())) == 6


def test_tuning_again_makes_no_run(folders, runs, tmp_path):
    assert lora2("tune", "all", *folders) == 0
    chosen = (tmp_path / "records" / "learning_rates.json").read_bytes()
    assert lora2("tune", "all", *folders, "--jobs=2") == 0
    assert len(runs.made) == 6
    assert (tmp_path / "records" / "learning_rates.json").read_bytes() == chosen


def test_one_method_is_tuned_and_the_choices_of_others_stay(folders, runs, tmp_path):
    assert lora2("tune", "lora", *folders) == 0
    assert lora2("tune", "lora2-k2", "--task=agreement", "--trials=1", *folders) == 0
    assert [run.method for run in runs.made] == ["lora"] * 3 + ["lora2"]
    choices = read_choices(tmp_path / "records")
    assert [len(choice.trials) for choice in choices.values()] == [3, 1]


def test_a_choice_of_more_trials_is_not_replaced_by_one_of_fewer(folders, runs, tmp_path, capsys):
    assert lora2("tune", "lora", *folders) == 0
    chosen = read_choices(tmp_path / "records")
    capsys.readouterr()
    assert lora2("tune", "lora", "--trials=1", *folders) == 0
    assert "choices of more trials: agreement/lora-r2." in capsys.readouterr().out
    assert read_choices(tmp_path / "records") == chosen
    assert lora2("tune", "lora", "--trials=4", *folders) == 0
    assert len(read_choices(tmp_path / "records")["agreement/lora-r2"].trials) == 4


def test_a_diverged_trial_is_a_result(folders, runs, tmp_path, capsys):
    runs.value = lambda run: math.nan if run.options["learning_rate"] > 1e-3 else 0.25
    assert lora2("tune", "lora", *folders) == 0
    assert "0.003: none" in capsys.readouterr().out
    assert read_choices(tmp_path / "records")["agreement/lora-r2"].learning_rate == 1e-3
    assert lora2("tune", "lora", *folders) == 0
    assert [run.options["learning_rate"] for run in runs.made] == RATES


def test_a_diverged_run_stands_in_the_table_and_is_not_made_again(folders, runs, capsys):
    runs.value = lambda run: math.nan if run.method == "lora2" else 0.5
    assert lora2("reproduce", "table1", *folders) == 0
    assert "1 failed" in capsys.readouterr().out
    assert lora2("reproduce", "table1", *folders) == 0
    assert len(runs.made) == 2


def test_nothing_is_chosen_while_a_trial_has_failed(folders, runs, tmp_path, capsys):
    usual = runs.value
    runs.value = lambda run: None if run.options["learning_rate"] == 1e-3 else 0.25
    assert lora2("tune", "lora", *folders) == 1
    assert "Nothing chosen: agreement/lora-r2." in capsys.readouterr().err
    assert read_choices(tmp_path / "records") == {}
    runs.value = usual
    assert lora2("tune", "lora", *folders) == 0
    assert [run.options["learning_rate"] for run in runs.made] == [*RATES, 1e-3]


def test_tables_stand_at_the_chosen_learning_rates(folders, runs, capsys):
    assert lora2("tune", "lora", *folders) == 0
    made = len(runs.made)
    assert lora2("reproduce", "table1", *folders) == 0
    rates = {run.method: run.options["learning_rate"] for run in runs.made[made:]}
    assert rates == {"lora": 3e-3, "lora2": 1e-3}
    assert "at the usual learning rate: agreement/lora2-k2." in capsys.readouterr().out


# --- what is invalid ---


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["tune", "lora3"], "'lora3' is none of lora2, lora, lora2-k2, lora-r2, all"),
        (["tune", "all", "--task=cola"], "task: 'cola' is none of agreement"),
        (["tune", "all", "--preset=paper"], "preset: 'paper' is none of small, leaderboard"),
        (["tune", "all", "--trials=0"], "trials=0 must be at least 1"),
        (["tune"], "required: METHOD"),
        (["tune", "all", "--jobs=0"], "jobs=0 must be a whole number of at least 1"),
        (
            ["reproduce", "table1", "--threads=-1"],
            "threads=-1 must be a whole number of at least 0",
        ),
        (["reproduce", "table1", "--data_dir=nowhere"], "data_dir: nowhere is no folder"),
        (["reproduce", "table1", "--launcher=slurm"], "invalid choice: 'slurm'"),
        (
            ["reproduce", "table1", "--cpus_per_run=-1"],
            "cpus_per_run=-1.0 must be a finite number of at least 0",
        ),
        (
            ["reproduce", "table1", "--gpus_per_run=1.5"],
            "gpus_per_run=1.5: a run trains on one",
        ),
    ],
    ids=" ".join,
)
def test_bad_options_are_refused(arguments, named, folders, tmp_path, capsys):
    assert named in refused(capsys, *arguments, *folders)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [["tune", "all"], ["reproduce", "table1"]], ids=" ".join)
def test_missing_ray_is_named_with_its_extra(command, folders, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    said = refused(capsys, *command, *folders, "--launcher=ray")
    assert "'ray', which is not installed: run `pip install 'lora2[ray]'`" in said
    assert list(tmp_path.iterdir()) == []


def test_missing_optuna_is_named_with_its_extra(folders, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert "pip install 'lora2[tune]'" in refused(capsys, "tune", "all", *folders)
    assert list(tmp_path.iterdir()) == []
