"""A layer is called with other weights, whatever holds its own, and has its own afterwards."""

from __future__ import annotations

import pytest
import torch
from accelerate import cpu_offload
from peft import get_peft_model
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from lora2 import Lora2Config, UserError
from lora2.tuners.base.layers.changed_weights import ChangedWeight, call_with
from unit.models import KINDS, ConvolutionModel, PaddingConv2d, base_weights, disturb, images


def attention() -> nn.MultiheadAttention:
    torch.manual_seed(0)
    return nn.MultiheadAttention(6, 3).eval()


def of_attention(layer: nn.MultiheadAttention, values: Tensor) -> list[ChangedWeight]:
    return [ChangedWeight(layer, "in_proj_weight", values)]


def test_call_has_the_given_weights_and_the_layer_keeps_its_own() -> None:
    layer, x = attention(), torch.randn(4, 2, 6)
    weights = [
        ChangedWeight(layer, "in_proj_weight", torch.randn(18, 6)),
        ChangedWeight(layer.out_proj, "weight", torch.randn(6, 6)),
    ]
    own = dict(layer.named_parameters())
    found, _ = call_with(layer, weights, x, x, value=x)
    assert all(layer.get_parameter(name) is parameter for name, parameter in own.items())
    assert not {"in_proj_weight", "weight"} & {*vars(layer), *vars(layer.out_proj)}
    with torch.no_grad():
        for weight in weights:
            getattr(weight.owner, weight.name).copy_(weight.values)
    torch.testing.assert_close(found, layer(x, x, x)[0])


def test_tensor_in_front_of_a_parameter_is_replaced_and_comes_back() -> None:
    """FSDP1 puts the whole weight there for a forward pass."""
    layer, x = attention(), torch.randn(4, 2, 6)
    expected, _ = call_with(layer, of_attention(layer, torch.ones(18, 6)), x, x, x)
    whole = torch.zeros(18, 6)
    object.__setattr__(layer, "in_proj_weight", whole)
    found, _ = call_with(layer, of_attention(layer, torch.ones(18, 6)), x, x, x)
    assert torch.equal(found, expected)
    assert layer.in_proj_weight is whole


def test_error_in_the_call_leaves_the_layer_as_it_was() -> None:
    layer = attention()
    own = layer.in_proj_weight
    weights = of_attention(layer, torch.zeros(18, 6))
    with pytest.raises(AssertionError, match="embedding dimension"):
        call_with(layer, weights, *[torch.zeros(4, 2, 5)] * 3)
    assert layer.in_proj_weight is own


# Attention alone does not compute when it is offloaded: torch does not call its out_proj.
def test_offloaded_weight_of_a_layer_with_its_own_forward_is_changed() -> None:
    (kind,) = (kind for kind in KINDS if kind.name == "conv2d_padding")
    base = kind.model()
    reference = get_peft_model(kind.model(), kind.config()).eval()
    cpu_offload(base, execution_device=torch.device("cpu"))
    model = get_peft_model(base, kind.config()).eval()
    for each in (reference, model):
        torch.manual_seed(0)
        disturb(each)
    assert all(weight.is_meta for weight in base_weights(model).values())
    model.load_state_dict(
        {n: t for n, t in reference.state_dict().items() if "lora2_" in n}, strict=False
    )
    torch.testing.assert_close(model(kind.inputs()), reference(kind.inputs()))


def test_parametrized_weight_of_a_layer_with_its_own_forward_is_refused() -> None:
    base = ConvolutionModel(PaddingConv2d)
    weight_norm(base.conv)
    model = get_peft_model(base, Lora2Config(target_modules=["conv"], k=2))
    with pytest.raises(UserError, match=r"weight of a \w*PaddingConv2d is parametrized"):
        model(images())
