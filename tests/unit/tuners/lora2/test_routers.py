"""Adapters in routers of experts."""

import pytest
import torch
from peft import get_peft_model
from torch import nn

from lora2 import Lora2Config


class Router(nn.Linear):
    """As those of Llama 4 and PhiMoE: a linear layer by its class that returns its choice, too."""

    def forward(self, x):
        scores = super().forward(x)
        return scores, scores.argmax(-1)


class Routed(nn.Module):
    def __init__(self):
        super().__init__()
        self.router = Router(6, 4)

    def forward(self, x):
        scores, choice = self.router(x)
        return scores.gather(-1, choice[..., None])


@pytest.mark.filterwarnings("ignore:router is a Router, whose forward computes something else")
@pytest.mark.parametrize("targets", [["router"], "all-linear"], ids=["by name", "all"])
def test_a_linear_layer_that_returns_more_is_adapted_by_its_weight(targets):
    torch.manual_seed(0)
    config = Lora2Config(k=2, init_r=2, init_weights=False, target_modules=targets)
    model = get_peft_model(Routed(), config)
    x = torch.randn(5, 6)
    with model.disable_adapter():
        torch.testing.assert_close(model(x), model.get_base_model()(x))
    output = model(x.requires_grad_())
    output.sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    torch.testing.assert_close(model.merge_and_unload()(x), output)
