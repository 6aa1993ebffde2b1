"""Factors that were prepared for all layers are used only while all that made them is unchanged."""

import copy
import io
from contextlib import nullcontext

import pytest
import torch
from peft import get_peft_model
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from lora2 import Lora2Config
from lora2.tuners.lora2 import forward_hook
from unit.forward_path_case import PATHS, adapted
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


def with_adapter(model: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    config = Lora2Config(target_modules=["lin0", "lin1"], k=2, init_r=2)
    peft_model = get_peft_model(model, config).eval()
    disturb(peft_model)
    return peft_model


@pytest.mark.parametrize("gradients", [True, False])
def test_a_scale_that_the_model_sets_itself_holds_in_that_pass(gradients: bool) -> None:
    model, x = with_adapter(Scaled()), rows()
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
    model, x = with_adapter(DeepMlp()), rows()
    model(x)
    for layer in layers_of(model).values():
        layer.set_scale("default", 0.0)
    part = next(iter(layers_of(model).values()))
    assert difference(part(x), part.base_layer(x)) < 1e-6


@pytest.mark.parametrize("autocast", [True, False], ids=["autocast", "half_precision_weights"])
def test_factors_are_prepared_in_the_dtype_of_the_products(autocast: bool) -> None:
    """And the gradients, in float32, are those of layers that make and cast their own."""
    model = adapted(PATHS[0], "exact").float()
    for layer in layers_of(model).values():
        layer.base_layer.to(torch.float32 if autocast else torch.bfloat16)
    x = torch.randn(4, 6, dtype=torch.float32 if autocast else torch.bfloat16)
    factors = [p for layer in layers_of(model).values() for p in layer.lora2_V.parameters()]
    gradients = []
    for together in (True, False):
        if not together:
            forward_hook.remove(model.get_base_model())
            for layer in layers_of(model).values():
                layer.lora2_prepared.clear()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output = model(x)
        gradients.append(torch.autograd.grad(output.float().sum(), factors))
        if together:
            prepared = [layer.lora2_prepared["default"] for layer in layers_of(model).values()]
            assert {tensor.dtype for p in prepared for tensor in (p.A, p.V)} == {torch.bfloat16}
    for made_together, made_alone in zip(*gradients, strict=True):
        assert made_together.dtype == torch.float32
        torch.testing.assert_close(made_together, made_alone, rtol=0, atol=0)


def test_prepared_factors_are_not_used_once_a_factor_has_changed() -> None:
    model = adapted(PATHS[0], "exact")
    x = torch.randn(2, 6, dtype=torch.float64)
    model(x)
    disturb(model, seed=5)
    # A part of the model, called without the model that would prepare it again.
    layer = next(iter(layers_of(model).values()))
    B, A = layer.factors("default")
    torch.testing.assert_close(layer(x) - layer.base_layer(x), x @ (B @ A).T)


def stop(*arguments: object) -> None:
    raise RuntimeError("stopped")


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("with_gradients", [False, True])
def test_a_part_of_the_model_follows_a_fused_optimizer(with_gradients: bool, fails: bool) -> None:
    """Fused optimizers, and what writes into `data`, leave the versions of tensors as they are."""
    model = adapted(PATHS[0], "exact")
    x = torch.randn(2, 6, dtype=torch.float64)
    layer, *_, last = layers_of(model).values()
    handle = last.register_forward_pre_hook(stop) if fails else None
    with (
        torch.set_grad_enabled(with_gradients),
        pytest.raises(RuntimeError, match="stopped") if fails else nullcontext(),
    ):
        model(x)
    if handle is not None:
        handle.remove()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.1, fused=True)
    for _ in range(3):
        optimizer.zero_grad()
        layer(x).square().sum().backward()
        optimizer.step()
        B, A = layer.factors("default")
        torch.testing.assert_close(layer(x) - layer.base_layer(x), x @ (B @ A).T)
    vector_to_parameters(parameters_to_vector(trained) + 0.1, trained)
    B, A = layer.factors("default")
    torch.testing.assert_close(layer(x) - layer.base_layer(x), x @ (B @ A).T)


def test_prepared_factors_do_not_hinder_a_copy_of_the_model() -> None:
    model = adapted(PATHS[0], "exact")
    x = torch.randn(2, 6, dtype=torch.float64)
    expected = model(x)
    torch.testing.assert_close(copy.deepcopy(model)(x), expected)
    torch.save(model.state_dict(), io.BytesIO())
    assert not any(layer.lora2_prepared for layer in layers_of(copy.deepcopy(model)).values())
