"""`--classifier_dropout`: the dropout before the classifier, under each architecture's own name."""

import pytest
from transformers import AutoConfig

from lora2.commands.train import resolve
from lora2.commands.train_parser import TrainParser
from lora2.errors import UserError
from lora2.lab.experiments.running.execution import Place
from lora2.lab.experiments.running.feasibility import check_feasible, empty_model
from lora2.training.base_models.models import config_of_sizes, set_classifier_dropout
from lora2.training.objectives.registry import objective_of
from run_case import tiny_run


def dropout_of(tiny_model, *options):
    settings = resolve(TrainParser(), [f"--model={tiny_model}", *options])
    objective = objective_of(settings)
    return objective.load_base(settings, objective.load_data(settings)).model.dropout.p


def test_a_run_has_the_dropout_that_is_asked_for(tiny_model):
    assert dropout_of(tiny_model, "--classifier_dropout=0.25") == 0.25
    assert dropout_of(tiny_model, "--classifier_dropout=0") == 0


def test_unless_it_is_given_the_models_own_stands(tiny_model):
    assert dropout_of(tiny_model) == 0.1
    assert dropout_of(tiny_model, "--classifier_dropout=none") == 0.1


@pytest.mark.parametrize(
    ("model", "place"),
    [
        ("microsoft/deberta-v3-base", "dropout"),
        ("FacebookAI/roberta-large", "classifier.dropout"),
    ],
)
@pytest.mark.parametrize("probability", [0.0, 0.15])
def test_it_is_the_one_before_the_classifier(model, place, probability):
    config = config_of_sizes(model)
    set_classifier_dropout(config, probability)
    assert empty_model(config, "classification").get_submodule(place).p == probability
    # All other dropout stays.
    assert config.hidden_dropout_prob == 0.1


@pytest.mark.parametrize("probability", [-0.1, 1.0])
def test_what_is_no_probability_is_refused(probability):
    with pytest.raises(UserError, match=f"classifier_dropout={probability} must be"):
        set_classifier_dropout(AutoConfig.for_model("bert"), probability)


def test_a_model_without_it_is_refused():
    with pytest.raises(UserError, match=r"classifier_dropout=0\.1: .*\(llama\) has no dropout"):
        set_classifier_dropout(AutoConfig.for_model("llama"), 0.1)


def test_it_is_checked_before_the_first_of_many_runs(tiny_model, tmp_path):
    check_feasible([tiny_run(tiny_model, classifier_dropout=0.2)], Place(tmp_path))
    bad = tiny_run(tiny_model, classifier_dropout=2)
    with pytest.raises(UserError, match=f"{bad.name}: classifier_dropout=2 must be"):
        check_feasible([bad], Place(tmp_path))
