"""The search for learning rates, on runs that are a formula."""

import math

import pytest

from experiment_case import diverged, failed
from lora2.lab.experiments.record import RunRecord
from lora2.lab.experiments.setting import Experiment, Search, Setting
from lora2.lab.experiments.tuning import best_value, tune

SETTING = Setting("lora-r1", "LoRA", "lora", "r=1", {"k": 1}, Search(1e-4, 1e-3, 1e-1))
EXPERIMENT = Experiment("tiny", "cola", SETTING, {"max_length": 64})
SEED = 100


def record(description, value):
    entry = {"step": 1, "matthews_correlation": value}
    return RunRecord(
        description, "finished", main_metric="matthews_correlation", evaluations=[entry],
        best=entry, last=entry,
    )  # fmt: skip


class Runs:
    """Makes records by a formula of the learning rate, and counts what had none yet."""

    def __init__(self, value):
        self.value, self.records, self.made = value, {}, []

    def __call__(self, description):
        if description not in self.records:
            self.made.append(description)
            value = self.value(description.options["learning_rate"])
            self.records[description] = (
                diverged(description) if value is None else record(description, value)
            )
        return self.records[description]


def peak_at(rate):
    return lambda tried: -abs(math.log(tried / rate))


def test_the_usual_learning_rate_is_tried_first_then_a_third_and_three_times_of_it():
    runs = Runs(peak_at(3e-3))
    choice = tune(EXPERIMENT, 3, SEED, runs)
    assert [rate for rate, _ in choice.trials] == [1e-3, 3.33e-4, 3e-3]
    assert (choice.experiment, choice.learning_rate) == ("cola/lora-r1", 3e-3)
    assert choice.trials[2][1] == 0
    assert runs.made == [EXPERIMENT.run(rate, SEED) for rate in (1e-3, 3.33e-4, 3e-3)]


@pytest.mark.parametrize(
    ("second", "chosen", "reached"),
    [(0.2, 1e-3, 0.35), (0.9, 3e-3, 0.7), (None, 1e-3, None)],
    ids=["worse", "better", "diverged"],
)
def test_a_trial_of_two_seeds_reaches_their_mean(second, chosen, reached):
    search = Search(1e-4, 1e-3, 1e-1, seeds=2)
    setting = Setting("lora-r1", "LoRA", "lora", "r=1", {"k": 1}, search)

    def run(description):
        if description.options["learning_rate"] != 3e-3:
            return record(description, 0.4)
        value = 0.5 if description.seed == SEED else second
        return diverged(description) if value is None else record(description, value)

    choice = tune(Experiment("tiny", "cola", setting, {}), 3, SEED, run)
    assert choice.learning_rate == chosen
    assert choice.trials[2] == (3e-3, pytest.approx(reached) if reached else None)


@pytest.mark.parametrize("trials", [1, 2, 6])
def test_every_search_makes_as_many_trials_as_were_asked_for(trials):
    for value in (peak_at(1e-2), lambda rate: None, lambda rate: math.nan, lambda rate: 0.5):
        choice = tune(EXPERIMENT, trials, SEED, Runs(value))
        assert len(choice.trials) == trials


def test_later_trials_stay_within_what_is_searched():
    choice = tune(EXPERIMENT, 12, SEED, Runs(peak_at(1.0)))
    assert all(1e-4 <= rate <= 1e-1 for rate, _ in choice.trials)
    assert choice.learning_rate > 2e-3


def test_learning_rates_have_three_digits():
    choice = tune(EXPERIMENT, 8, SEED, Runs(peak_at(1e-2)))
    assert all(rate == float(f"{rate:.2e}") for rate, _ in choice.trials)


def test_a_second_search_makes_no_run_and_chooses_the_same():
    runs = Runs(peak_at(7e-3))
    first = tune(EXPERIMENT, 6, SEED, runs)
    made = list(runs.made)
    assert tune(EXPERIMENT, 6, SEED, runs) == first
    assert runs.made == made


def test_a_longer_search_goes_on_from_the_shorter_one():
    runs = Runs(peak_at(7e-3))
    short = tune(EXPERIMENT, 4, SEED, runs)
    made = len(runs.made)
    long = tune(EXPERIMENT, 6, SEED, runs)
    assert long.trials[:4] == short.trials
    assert len(runs.made) <= made + 2


def test_diverged_trials_are_survived():
    values = {1e-3: None, 3.33e-4: math.nan, 3e-3: 0.25}
    choice = tune(EXPERIMENT, 3, SEED, Runs(values.get))
    assert choice.trials == ((1e-3, None), (3.33e-4, None), (3e-3, 0.25))
    assert choice.learning_rate == 3e-3


def test_where_every_trial_diverges_nothing_is_chosen():
    choice = tune(EXPERIMENT, 4, SEED, Runs(lambda rate: None))
    assert choice.learning_rate is None
    assert [value for _, value in choice.trials] == [None] * 4


def elsewhere(run):
    return RunRecord(run, "elsewhere")


@pytest.mark.parametrize("without_result", [failed, elsewhere])
def test_nothing_is_chosen_while_a_trial_has_no_result(without_result):
    def run(description):
        if description.options["learning_rate"] == 1e-3:
            return without_result(description)
        return record(description, 0.5)

    assert tune(EXPERIMENT, 3, SEED, run).learning_rate is None


def test_of_equals_the_earlier_is_chosen():
    assert tune(EXPERIMENT, 3, SEED, Runs(lambda rate: 0.5)).learning_rate == 1e-3


def test_negative_metrics_can_be_the_best():
    assert (
        tune(EXPERIMENT, 2, SEED, Runs({1e-3: -0.5, 3.33e-4: -0.25}.get)).learning_rate == 3.33e-4
    )


def test_the_value_of_a_run_is_its_best_main_metric():
    run = EXPERIMENT.run(1e-3, SEED)
    assert best_value(record(run, 0.5)) == 0.5
    assert best_value(record(run, math.nan)) is None
    assert best_value(failed(run)) is None
    assert best_value(RunRecord(run, "finished")) is None


def test_settings_share_a_learning_rate_where_they_say_so():
    variant = Experiment("tiny", "cola", Setting(
        "eq8", "eq. 8", "lora2", "", {}, SETTING.search, tuned_as="lora2-k1"
    ))  # fmt: skip
    assert (variant.name, variant.tuned_name) == ("cola/eq8", "cola/lora2-k1")
    assert EXPERIMENT.tuned_name == EXPERIMENT.name


def test_the_options_of_a_setting_come_over_those_of_the_task():
    experiment = Experiment("tiny", "cola", SETTING, {"k": 2, "max_length": 64})
    assert experiment.run(1e-3, 3).options == {"k": 1, "max_length": 64, "learning_rate": 1e-3}
