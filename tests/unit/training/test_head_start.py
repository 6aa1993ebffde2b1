"""Where a new head starts."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lora2.training.base_models.models import BaseModel
from lora2.training.objectives.head_start import start_head_at_label_mean


class Model(nn.Module):
    """Only what a head is looked for in."""

    def __init__(self, outputs, head=None):
        super().__init__()
        self.config = SimpleNamespace(num_labels=outputs)
        self.classifier = nn.Linear(4, outputs) if head is None else head


def start(model, labels, is_scale=False, new=("classifier",)):
    start_head_at_label_mean(BaseModel(model, new), torch.tensor(labels), is_scale)


def test_classes_start_at_the_log_of_their_shares():
    model = Model(3)
    start(model, [0, 0, 0, 1, 1])
    # One more of each: 4, 3 and 1 of 8; the third class does not occur.
    expected = torch.tensor([math.log(4 / 8), math.log(3 / 8), math.log(1 / 8)])
    torch.testing.assert_close(model.classifier.bias.data, expected)


def test_a_scale_starts_at_its_mean():
    model = Model(1)
    start(model, [1.0, 2.0, 4.5], is_scale=True)
    torch.testing.assert_close(model.classifier.bias.data, torch.tensor([2.5]))


def test_the_output_layer_of_a_deeper_head_is_meant():
    head = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    model = Model(2, head)
    inner = head[0].bias.clone()
    start(model, [0, 0, 1, 1], new=("classifier.0", "classifier.1"))
    assert torch.equal(head[0].bias, inner)
    torch.testing.assert_close(head[1].bias.data, torch.full((2,), math.log(0.5)))


@pytest.mark.parametrize("new", [(), ("pooler",)])
def test_a_head_that_came_with_the_checkpoint_stays_as_it_is(new):
    model = Model(2)
    model.pooler = nn.Linear(4, 2)
    before = model.classifier.bias.clone()
    start(model, [0, 0, 0, 1], new=new)
    assert torch.equal(model.classifier.bias, before)


def test_a_head_without_bias_stays_as_it_is():
    model = Model(2, nn.Linear(4, 2, bias=False))
    before = model.classifier.weight.clone()
    start(model, [0, 0, 0, 1])
    assert torch.equal(model.classifier.weight, before)
