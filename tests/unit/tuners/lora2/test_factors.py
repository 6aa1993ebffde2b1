"""The table of factors agrees with what a layer stores and with the parameter formula."""

import math

from peft import get_peft_model

from lora2 import Lora2Config
from lora2.tuners.lora2.factor_table import FACTORS, INNER
from unit.models import Mlp, layers_of


def test_stored_tensors_have_the_shapes_of_the_table() -> None:
    model = get_peft_model(Mlp(), Lora2Config(k=2, init_r=3, target_modules=["lin0"]))
    (layer,) = layers_of(model).values()
    d_out, d_in = layer.matrix_shape()
    for symbol, tensor in layer.parameters_of("default").items():
        assert tensor.shape == FACTORS[symbol].shape(d_in=d_in, d_out=d_out, k=2, r=3)


def test_sizes_add_up_to_the_formula_of_trained_parameters() -> None:
    d_in, d_out, k, r = 7, 5, 3, 4
    shapes = (each.shape(d_in=d_in, d_out=d_out, k=k, r=r) for each in FACTORS.values())
    assert sum(map(math.prod, shapes)) == k * (d_in + d_out) + 2 * k * r + r


def test_inner_factors_are_those_that_pruning_makes_smaller() -> None:
    assert INNER == ("u", "lam", "U")
    for symbol in INNER:
        assert 4 in FACTORS[symbol].shape(d_in=7, d_out=5, k=3, r=4)
