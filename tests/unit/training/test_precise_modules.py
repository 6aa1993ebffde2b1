"""Modules that are trained whole in a model in half precision: weights, inputs and outputs."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from lora2.training.base_models.precise_modules import put_in_float32

X = torch.ones(2, 3, 4, dtype=torch.bfloat16)


@pytest.mark.parametrize("returns_float32", [False, True])
@pytest.mark.parametrize(
    ("make", "arguments"),
    [
        (partial(nn.Linear, 4, 4), (X,)),
        (partial(nn.LSTM, 4, 4, batch_first=True), (X,)),
        (partial(nn.MultiheadAttention, 4, 2, batch_first=True), (X, X, X)),
    ],
    ids=["linear", "lstm", "attention"],
)
def test_weights_are_float32_and_outputs_as_asked(
    make: Callable[[], nn.Module], arguments: tuple[torch.Tensor, ...], returns_float32: bool
) -> None:
    module = nn.Sequential(make()).bfloat16()
    put_in_float32(module, returns_float32)
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    outputs = module[0](*arguments)
    first = outputs if isinstance(outputs, torch.Tensor) else outputs[0]
    assert first.dtype == (torch.float32 if returns_float32 else torch.bfloat16)


def test_a_tied_weight_of_another_module_stays_as_it_is() -> None:
    embedding, head = nn.Embedding(5, 4).bfloat16(), nn.Linear(4, 5, bias=False).bfloat16()
    head.weight = embedding.weight
    put_in_float32(head, returns_float32=True)
    assert (embedding.weight.dtype, head.weight.dtype) == (torch.bfloat16, torch.float32)
