"""A merge that one layer refuses leaves all layers as they were, and names that layer."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from lora2 import Lora2Config, UserError, export_lora
from unit.models import difference, disturb, layers_of
from unit.tiny_transformers import tiny_llama


class Three(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 6)
        self.middle = parametrizations.weight_norm(nn.Linear(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.middle(self.first(x)))


def computed_weight() -> tuple[nn.Module, str]:
    model = get_peft_model(Three(), Lora2Config(k=2, target_modules=["first", "middle", "last"]))
    disturb(model)
    return model.eval(), "middle"


def tied_parameter() -> tuple[nn.Module, str]:
    config = Lora2Config(k=2, target_modules=["q_proj"], target_parameters=["lm_head.weight"])
    model = get_peft_model(tiny_llama(tie_word_embeddings=True), config)
    disturb(model)
    return model.eval(), "lm_head.matrices.weight.0"


def broken_factor() -> tuple[nn.Module, str]:
    model, _ = computed_weight()
    nn.utils.parametrize.remove_parametrizations(model.base_model.model.middle.base_layer, "weight")
    layers_of(model)["base_model.model.last"].lora2_V["default"].data[0, 0] = float("nan")
    return model, "last"


@pytest.mark.parametrize("how", ["merge_adapter", "merge_and_unload"])
@pytest.mark.parametrize("make", [computed_weight, tied_parameter, broken_factor])
def test_nothing_is_merged_where_one_layer_cannot_be(
    make: Callable[[], tuple[nn.Module, str]], how: str
) -> None:
    torch.manual_seed(0)
    model, name = make()
    before = [tensor.clone() for tensor in model.state_dict().values()]
    error, said = UserError, f"^{name}: "
    if make is broken_factor:
        error, said = ValueError, f"in the merged weight of {name} "
    with pytest.raises(error, match=said):
        getattr(model, how)(safe_merge=make is broken_factor)
    assert not any(layer.merged for layer in layers_of(model).values())
    after = model.state_dict().values()
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old, new) or torch.isnan(old).any()


class Scaled(nn.Module):
    """A module with a matrix of its own, and a layer inside, as the mixers of Mamba."""

    def __init__(self) -> None:
        super().__init__()
        self.scales, self.inner = nn.Parameter(torch.randn(6, 6)), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x @ self.scales)


def scaled() -> PeftModel:
    model = nn.ModuleDict({"mixer": Scaled()})
    model.forward = lambda x: model["mixer"](x)
    config = Lora2Config(k=2, target_modules=["inner"], target_parameters=["mixer.scales"])
    adapted = get_peft_model(model, config)
    disturb(adapted)
    return adapted.eval()


def test_layers_inside_a_module_with_an_adapted_parameter_are_merged_and_unloaded() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 6)
    model = scaled()
    expected = model(x)
    merged = model.merge_and_unload()
    assert not layers_of(merged)
    assert difference(merged(x), expected) < 1e-5
    model = scaled()
    with model.disable_adapter():
        expected = model(x)
    plain = model.unload()
    assert not layers_of(plain)
    assert torch.equal(plain(x), expected)


def test_such_layers_are_not_exported_as_a_lora(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"inner: it is in mixer, of which a parameter"):
        export_lora(scaled(), tmp_path / "lora")
    assert not (tmp_path / "lora").exists()
