"""A model is evaluated for a while, and each of its modules has its own mode again afterwards."""

import pytest
from torch import nn

from lora2.support.evaluation_mode import in_evaluation


def model_of_two_modes():
    model = nn.Sequential(nn.Dropout(), nn.Dropout())
    model[1].eval()
    return model


def modes_of(model):
    return [module.training for module in model.modules()]


def test_each_module_has_its_own_mode_again():
    model = model_of_two_modes()
    with in_evaluation(model):
        assert modes_of(model) == [False, False, False]
    assert modes_of(model) == [True, True, False]


def test_an_error_leaves_the_modes_as_they_were():
    model = model_of_two_modes()
    with pytest.raises(ValueError, match="no such batch"), in_evaluation(model):
        raise ValueError("no such batch")
    assert modes_of(model) == [True, True, False]
