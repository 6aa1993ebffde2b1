"""Bottleneck adapters against a literal oracle, and what they do and refuse as PEFT adapters."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn

from lora2 import BottleneckConfig, UserError
from lora2.tuners.bottleneck.layer import BottleneckLayer
from oracle import assert_agrees, product, transpose
from unit.bottleneck import adapted, config, move
from unit.models import CONV1D, CONV2D, EMBEDDING, LINEAR, Kind, check_trains_only, rows
from unit.tiny_transformers import bert_batch, tiny_bert


def layers(model: nn.Module) -> list[BottleneckLayer]:
    return [module for module in model.modules() if isinstance(module, BottleneckLayer)]


def parts(layer: BottleneckLayer, adapter_name: str = "default") -> list[Tensor]:
    """D, b_D, U and b_U of an adapter."""
    down, up = layer.bottleneck_down[adapter_name], layer.bottleneck_up[adapter_name]
    return [down.weight, down.bias, up.weight, up.bias]


# The layer


def gelu(z: Tensor) -> Tensor:
    """z times the probability that a standard normal variable is below z."""
    return z * (1 + torch.erf(z / math.sqrt(2))) / 2


def relu(z: Tensor) -> Tensor:
    return (z + z.abs()) / 2


def literal(h: Tensor, D: Tensor, b_D: Tensor, U: Tensor, b_U: Tensor, f: Any) -> Tensor:
    """h + U f(D h + b_D) + b_U, for each row h."""
    return h + product(f(product(h, transpose(D)) + b_D), transpose(U)) + b_U


@pytest.mark.parametrize(("activation", "f"), [("gelu", gelu), ("relu", relu)])
def test_output_and_gradients_are_those_of_the_formula(activation: str, f: Any) -> None:
    model = adapted(activation=activation).double()
    layer = layers(model)[0]
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(4, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    towards = torch.randn(4, 10, generator=generator, dtype=torch.float64)
    output = layer(x)
    x_again, *again = (each.detach().clone().requires_grad_() for each in (x, *parts(layer)))
    expected = literal(layer.get_base_layer()(x_again), *again, f)
    assert_agrees(output, expected)
    found = torch.autograd.grad((output * towards).sum(), [x, *parts(layer)])
    wanted = torch.autograd.grad((expected * towards).sum(), [x_again, *again])
    for one, other in zip(found, wanted, strict=True):
        assert_agrees(one, other)


def test_shapes_are_those_of_the_width_behind_the_layer() -> None:
    shapes = [[tuple(part.shape) for part in parts(layer)] for layer in layers(adapted())]
    assert shapes == [[(3, d), (3,), (d, 3), (d,)] for d in (10, 2)]


def test_start_is_near_the_identity_and_not_at_it() -> None:
    torch.manual_seed(0)
    model = get_peft_model(LINEAR.model(), config(bottleneck_size=64)).eval()
    torch.testing.assert_close(model(rows()), LINEAR.model()(rows()), atol=1e-2, rtol=0)
    assert not torch.equal(model(rows()), LINEAR.model()(rows()))
    for layer in layers(model):
        D, b_D, U, b_U = parts(layer)
        assert not b_D.any()
        assert not b_U.any()
        for weight in (D, U):
            # A normal variable cut off at two standard deviations deviates by 0.88 of one.
            assert weight.std().item() == pytest.approx(0.0088, rel=0.15)
            assert weight.abs().max() <= 0.02


def test_a_start_without_spread_is_the_identity() -> None:
    model = get_peft_model(LINEAR.model(), config(init_std=0)).eval()
    assert torch.equal(model(rows()), LINEAR.model()(rows()))


def test_only_adapter_parameters_are_updated() -> None:
    check_trains_only("bottleneck_", adapted(), rows())


def test_half_precision_base_keeps_its_dtype() -> None:
    model = get_peft_model(LINEAR.model().bfloat16(), config()).eval()
    assert model(rows().bfloat16()).dtype == torch.bfloat16
    assert {part.dtype for layer in layers(model) for part in parts(layer)} == {torch.float32}


# Where adapters are put


def test_defaults_stand_behind_both_sub_layers_of_each_layer() -> None:
    model = get_peft_model(tiny_bert(), BottleneckConfig(task_type="SEQ_CLS"))
    names = [name for name, module in model.named_modules() if isinstance(module, BottleneckLayer)]
    assert [name.partition("encoder.layer.")[2] for name in names] == [
        f"{layer}.{part}output.dense" for layer in (0, 1) for part in ("attention.", "")
    ]


@pytest.mark.parametrize("kind", [CONV1D, EMBEDDING, CONV2D], ids=lambda kind: kind.name)
def test_layers_that_are_not_linear_are_refused(kind: Kind) -> None:
    with pytest.raises(UserError, match="after which no bottleneck adapter is possible"):
        get_peft_model(kind.model(), config(target_modules=kind.target_modules))


# Saving


def test_a_saved_adapter_loads_into_a_fresh_model(tmp_path: Path) -> None:
    model = adapted(activation="relu")
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(LINEAR.model(), tmp_path).eval()
    assert torch.equal(loaded(rows()), model(rows()))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_normalisations_and_head_are_saved_with_it(tmp_path: Path) -> None:
    base = tiny_bert()
    saved = [n for n, module in base.named_modules() if isinstance(module, nn.LayerNorm)]
    torch.manual_seed(1)
    adapter = BottleneckConfig(task_type="SEQ_CLS", modules_to_save=saved)
    model = get_peft_model(base, adapter).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_bert(), tmp_path).eval()
    expected = model(**bert_batch()).logits
    assert not torch.allclose(expected, tiny_bert()(**bert_batch()).logits, atol=1e-3)
    assert torch.equal(loaded(**bert_batch()).logits, expected)


def test_the_config_comes_back_as_it_was(tmp_path: Path) -> None:
    written = config(activation="relu", init_std=0.5, layers_to_transform=[1])
    written.save_pretrained(tmp_path)
    read = BottleneckConfig.from_pretrained(tmp_path)
    fields = ("bottleneck_size", "activation", "init_std", "target_modules", "layers_to_transform")
    for name in fields:
        assert getattr(read, name) == getattr(written, name), name


# Several adapters


def test_a_disabled_adapter_is_the_base_model() -> None:
    model = adapted()
    with model.disable_adapter():
        assert torch.equal(model(rows()), LINEAR.model()(rows()))
    assert not torch.allclose(model(rows()), LINEAR.model()(rows()), atol=1e-3)


def test_several_adapters_stand_side_by_side_and_go_away() -> None:
    model = adapted()
    model.add_adapter("other", config(bottleneck_size=2, activation="relu"))
    move(model, "other", seed=1)
    layer, x = layers(model)[0], rows()
    h = layer.get_base_layer()(x)
    outputs = {}
    for name in ("default", "other"):
        model.set_adapter(name)
        outputs[name] = layer(x)
    model.base_model.set_adapter(["default", "other"])
    torch.testing.assert_close(layer(x) - h, outputs["default"] + outputs["other"] - 2 * h)
    model.set_adapter("default")
    model.delete_adapter("other")
    assert not [name for name, _ in model.named_parameters() if "other" in name]
    assert torch.equal(layer(x), outputs["default"])


# Refusals


def test_merging_is_refused_in_one_sentence() -> None:
    model = adapted()
    for merge in (model.merge_adapter, model.merge_and_unload):
        with pytest.raises(UserError, match="cannot be merged into a weight") as raised:
            merge()
        assert "\n" not in str(raised.value)
    assert not model.supports_lora_conversion()


def test_mixed_batches_are_refused_rather_than_ignored() -> None:
    with pytest.raises(UserError, match="adapter_names cannot be used with bottleneck adapters"):
        adapted()(rows(), adapter_names=["default"] * 5)


def test_unload_gives_the_base_model() -> None:
    assert torch.equal(adapted().unload()(rows()), LINEAR.model()(rows()))


BAD = {
    "size": ({"bottleneck_size": 0}, "bottleneck_size=0 must be a whole number of at least 1"),
    "fraction": ({"bottleneck_size": 1.5}, "bottleneck_size=1.5 must be a whole number"),
    "activation": ({"activation": "tanh"}, "activation='tanh' is not known"),
    "init_std": ({"init_std": -0.1}, "init_std=-0.1 must not be negative"),
}


@pytest.mark.parametrize(("fields", "said"), BAD.values(), ids=BAD)
def test_a_value_that_is_invalid_is_one_sentence(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as raised:
        BottleneckConfig(**fields)
    assert "\n" not in str(raised.value)
    assert str(raised.value).endswith(".")
