"""SoRA's layer against a literal oracle."""

import pytest
import torch
from peft import get_peft_model
from torch import Tensor

from lora2 import UserError
from oracle import assert_agrees, product, transpose
from unit.models import CONV1D, CONV2D, EMBEDDING, LINEAR, Kind, check_trains_only, rows
from unit.sora import adapted, config, every_kind, layers


def literal_delta(A: Tensor, g: Tensor, B: Tensor, scaling: float) -> Tensor:
    """The sum over ranks i of scaling · g[i] · B[:, i] A[i, :], as [d_out, d_in]."""
    total = torch.zeros(B.shape[0], A.shape[1], dtype=torch.float64)
    for i in range(len(g)):
        total = total + scaling * g[i] * product(B[:, i : i + 1], A[i : i + 1, :])
    return total


@pytest.mark.parametrize("kind", [LINEAR, CONV1D], ids=lambda kind: kind.name)
def test_output_and_gradients_are_those_of_the_formula(kind: Kind) -> None:
    model = adapted(kind).double()
    layer = layers(model)[0]
    d_out, d_in = layer.matrix_shape()
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(3, d_in, generator=generator, dtype=torch.float64, requires_grad=True)
    towards = torch.randn(3, d_out, generator=generator, dtype=torch.float64)
    held = [layer.sora_A["default"], layer.sora_gate["default"], layer.sora_B["default"]]
    output = layer(x)
    A, g, B = (tensor.detach().clone().requires_grad_() for tensor in held)
    x_again = x.detach().clone().requires_grad_()
    delta = literal_delta(A, g, B, scaling=6.0 / 4)
    expected = layer.get_base_layer()(x_again) + product(x_again, transpose(delta))
    assert_agrees(output, expected)
    found = torch.autograd.grad((output * towards).sum(), [x, *held])
    wanted = torch.autograd.grad((expected * towards).sum(), [x_again, A, g, B])
    for one, other in zip(found, wanted, strict=True):
        assert_agrees(one, other)


def test_the_scaling_is_that_of_the_first_rank_whatever_is_left_of_it() -> None:
    model = adapted(rank_pattern={"lin0": 2})
    assert [len(layer.sora_gate["default"]) for layer in layers(model)] == [2, 4]
    assert {layer.sora_scaling["default"] for layer in layers(model)} == {6.0 / 4}


@every_kind
def test_start_is_the_identity_and_gates_are_drawn(kind: Kind) -> None:
    base, x = kind.model(), kind.inputs()
    expected = base(x)
    torch.manual_seed(0)
    model = get_peft_model(base, config(kind, r=32)).eval()
    assert torch.equal(model(x), expected)
    gates = torch.cat([layer.sora_gate["default"] for layer in layers(model)])
    assert gates.mean().abs() < 0.5
    assert 0.6 < gates.std() < 1.4


@every_kind
def test_init_weights_false_is_not_the_identity(kind: Kind) -> None:
    assert not torch.allclose(adapted(kind)(kind.inputs()), kind.model()(kind.inputs()), atol=1e-4)


@every_kind
def test_only_adapter_parameters_are_updated(kind: Kind) -> None:
    check_trains_only("sora_", adapted(kind), kind.inputs())


def test_inputs_of_the_adapter_are_dropped_in_training_only() -> None:
    model = adapted(lora_dropout=0.9)
    assert torch.equal(model(rows()), model(rows()))
    model.train()
    assert not torch.equal(model(rows()), model(rows()))


def test_half_precision_base_keeps_its_dtype() -> None:
    torch.manual_seed(1)
    model = get_peft_model(LINEAR.model().bfloat16(), config(init_weights=False)).eval()
    assert model(rows().bfloat16()).dtype == torch.bfloat16
    assert layers(model)[0].sora_A["default"].dtype == torch.float32


@pytest.mark.parametrize("kind", [EMBEDDING, CONV2D], ids=lambda kind: kind.name)
def test_other_kinds_of_layers_are_refused(kind: Kind) -> None:
    with pytest.raises(UserError, match=r"cannot be adapted: name modules of type Linear, Conv1D"):
        get_peft_model(kind.model(), config(kind))
