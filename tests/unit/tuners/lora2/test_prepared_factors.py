"""Factors that were prepared for all layers are used only while all that made them is unchanged."""

import pytest
import torch
from peft import get_peft_model
from torch import Tensor, nn

from lora2 import Lora2Config
from unit.models import DeepMlp, difference, disturb, layers_of, rows


class Scaled(nn.Module):
    """A model that scales its adapters within its forward pass, as those of diffusers do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.scale = DeepMlp(), 1.0

    def forward(self, x: Tensor) -> Tensor:
        layers = [m for m in self.modules() if hasattr(m, "scale_layer")]
        for layer in layers:
            layer.scale_layer(self.scale)
        try:
            return self.inner(x)
        finally:
            for layer in layers:
                layer.unscale_layer(self.scale)


def adapted(model: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    config = Lora2Config(target_modules=["lin0", "lin1"], k=2, init_r=2)
    peft_model = get_peft_model(model, config).eval()
    disturb(peft_model)
    return peft_model


@pytest.mark.parametrize("gradients", [True, False])
def test_a_scale_that_the_model_sets_itself_holds_in_that_pass(gradients: bool) -> None:
    model, x = adapted(Scaled()), rows()
    with torch.set_grad_enabled(gradients):
        whole = model(x)
        model.get_base_model().scale = 0.5
        scaled = model(x)
    model.get_base_model().scale = 1.0
    for layer in layers_of(model).values():
        layer.set_scale("default", 0.5)
    expected = model(x)
    assert difference(scaled, expected) < 1e-6
    assert difference(whole, expected) > 1e-3


def test_a_part_of_the_model_follows_a_new_scaling() -> None:
    model, x = adapted(DeepMlp()), rows()
    model(x)
    for layer in layers_of(model).values():
        layer.set_scale("default", 0.0)
    part = next(iter(layers_of(model).values()))
    assert difference(part(x), part.base_layer(x)) < 1e-6
