"""Linear layers with a quantized weight, by a substitute for torchao's: no package is needed.

`tests/engines/test_quantization.py` has the real ones.
"""

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn

from lora2 import SoraConfig, UserError
from lora2.tuners.base.layers.adapted_layer import AdaptedLayer
from unit.models import EMBEDDING, LINEAR, Mlp, disturb, layers_of, rows, sgd_steps


class Quantized(nn.Parameter):
    """Eighths, as floats of the dtype it was made from: torchao's tensors have that dtype too."""

    def dequantize(self) -> Tensor:
        return self.data.clone()


class OneWay(Quantized):
    def dequantize(self) -> Tensor:
        raise NotImplementedError


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.utils", SimpleNamespace(TorchAOBaseTensor=Quantized))


def quantize(layer: nn.Module, kind: type[Quantized] = Quantized) -> None:
    values = (8 * layer.weight.detach()).round() / 8
    layer.weight = kind(values, requires_grad=False)


def base(kind: type[Quantized] = Quantized, dtype: torch.dtype = torch.float32) -> Mlp:
    model = LINEAR.model().to(dtype)
    for layer in (model.lin0, model.lin1):
        quantize(layer, kind)
    return model


def adapted(model: nn.Module | None = None, **fields: Any) -> PeftModel:
    torch.manual_seed(1)
    model = get_peft_model(model or base(), LINEAR.config(**fields)).eval()
    disturb(model)
    return model


def sora(model: nn.Module | None = None) -> PeftModel:
    torch.manual_seed(1)
    config = SoraConfig(target_modules=["lin0", "lin1"], r=3, init_weights=False)
    return get_peft_model(model or base(), config).eval()


both_methods = pytest.mark.parametrize("make", [adapted, sora])


def adapted_layers(model: nn.Module) -> list[AdaptedLayer]:
    return [module for module in model.modules() if isinstance(module, AdaptedLayer)]


def base_layers(model: nn.Module) -> list[nn.Module]:
    return [layer.get_base_layer() for layer in adapted_layers(model)]


def test_base_output_is_the_base_layers_own(monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted()
    calls: list[nn.Module] = []
    plain = nn.Linear.forward
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: calls.append(self) or plain(self, x))
    model(rows())
    assert calls == base_layers(model)


def test_adapters_train_and_the_base_does_not() -> None:
    model = adapted()
    before = [layer.weight.clone() for layer in base_layers(model)]
    start = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    sgd_steps(model, rows(), lr=0.1)
    assert all(not torch.equal(model.get_parameter(name), old) for name, old in start.items())
    for layer, old in zip(base_layers(model), before, strict=True):
        assert torch.equal(layer.weight, old)


@both_methods
def test_merge_puts_plain_layers_in_and_unmerge_the_same_ones_back(
    make: Callable[[], PeftModel],
) -> None:
    model, x = make(), rows()
    quantized, expected = base_layers(model), model(x)
    names = model.state_dict().keys()
    model.merge_adapter()
    assert [type(layer) for layer in base_layers(model)] == [nn.Linear, nn.Linear]
    assert all(type(layer.weight) is nn.Parameter for layer in base_layers(model))
    torch.testing.assert_close(model(x), expected, atol=1e-6, rtol=1e-6)
    assert model.state_dict().keys() == names
    model.unmerge_adapter()
    assert base_layers(model) == quantized
    assert torch.equal(model(x), expected)


@both_methods
def test_model_trains_on_after_a_merge_in_inference_mode(make: Callable[[], PeftModel]) -> None:
    model, x = make().train(), rows()
    quantized = base_layers(model)
    with torch.inference_mode():
        model.merge_adapter()
        model(x)
    # Merged still, and a graph through the plain layers can be made.
    assert not any(layer.weight.is_inference() for layer in base_layers(model))
    model(x.clone().requires_grad_()).sum().backward()
    with torch.inference_mode():
        model.unmerge_adapter()
    assert base_layers(model) == quantized
    model(x).sum().backward()


def test_merged_weight_is_rounded_once_to_the_models_dtype() -> None:
    model = adapted(base(dtype=torch.bfloat16))
    exact = [
        layer.get_base_layer().weight.dequantize().float() + layer.get_delta_weight("default")
        for layer in adapted_layers(model)
    ]
    model.merge_adapter()
    for layer, weight in zip(base_layers(model), exact, strict=True):
        assert torch.equal(layer.weight, weight.bfloat16())
        assert layer.bias.dtype == torch.bfloat16


def test_layer_without_half_precision_elsewhere_is_merged_in_float32() -> None:
    model = base(dtype=torch.bfloat16)
    # As `prepare_model_for_kbit_training` leaves it.
    for layer in (model.lin0, model.lin1):
        layer.bias = nn.Parameter(layer.bias.float())
    merged = adapted(model).merge_and_unload()
    assert {p.dtype for p in merged.parameters()} == {torch.float32}


def test_several_adapters_merge_one_by_one_and_unmerge_at_once() -> None:
    model, x = adapted(), rows()
    model.add_adapter("other", LINEAR.config("k_above_r"))
    disturb(model, "other", seed=1)
    quantized = base_layers(model)
    model.base_model.set_adapter(["default", "other"])
    expected = model(x)
    model.merge_adapter(["default"])
    with pytest.warns(UserWarning, match="Already following adapters were merged"):
        model.merge_adapter(["default", "other"])
    torch.testing.assert_close(model(x), expected, atol=1e-6, rtol=1e-6)
    model.unmerge_adapter()
    assert base_layers(model) == quantized
    assert all(not layer.merged for layer in adapted_layers(model))
    assert torch.equal(model(x), expected)


def test_disable_adapter_unmerges() -> None:
    model = adapted()
    model.merge_adapter()
    with model.disable_adapter():
        assert torch.equal(model(rows()), base()(rows()))


def test_unmerged_layer_follows_the_model_in_its_mode() -> None:
    model = adapted()
    model.merge_adapter()
    model.train()
    model.unmerge_adapter()
    assert all(layer.training for layer in base_layers(model))


def test_merge_across_another_methods_adapter_is_refused() -> None:
    model, x = sora().base_model.model, rows()
    with pytest.warns(UserWarning, match="PEFT|peft"):
        outer = adapted(model, target_modules=["lin0"])
    expected = outer(x)
    with pytest.raises(UserError, match=r"'default'.*SoraLinear"):
        outer.merge_adapter()
    assert torch.equal(outer(x), expected)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_safe_merge_raises_on_nan_and_leaves_the_layer(bad: float) -> None:
    model = adapted()
    first = next(iter(layers_of(model).values()))
    with torch.no_grad():
        first.parameters_of("default")["V"][0, 0] = bad
    quantized = base_layers(model)
    with pytest.raises(ValueError, match="NaNs detected"):
        model.merge_adapter(safe_merge=True)
    assert base_layers(model) == quantized
    assert first.merged_adapters == []


@both_methods
def test_merge_and_unload_gives_a_plain_model(make: Callable[[], PeftModel]) -> None:
    model, x = make(), rows()
    expected = model(x)
    merged = model.merge_and_unload(safe_merge=True)
    assert [type(m) for m in merged.modules()] == [type(m) for m in Mlp().modules()]
    assert {type(p) for p in merged.parameters()} == {nn.Parameter}
    assert merged.state_dict().keys() == Mlp().state_dict().keys()
    torch.testing.assert_close(merged(x), expected, atol=1e-6, rtol=1e-6)


class Marks:
    """What transformers leaves in a quantized model."""

    def remove_quantization_config(self, model: nn.Module) -> None:
        del model.hf_quantizer


def test_merge_and_unload_dequantizes_layers_without_adapters_and_takes_the_marks_off() -> None:
    model, x = base(), rows()
    model.hf_quantizer = Marks()
    model = adapted(model, target_modules=["lin0"])
    expected = model(x)
    merged = model.merge_and_unload()
    assert type(merged.lin1.weight) is nn.Parameter
    assert "hf_quantizer" not in vars(merged)
    torch.testing.assert_close(merged(x), expected, atol=1e-6, rtol=1e-6)


def test_marks_stay_where_something_stays_quantized() -> None:
    model = base()
    quantize(model.lin1, OneWay)
    model.hf_quantizer = Marks()
    merged = adapted(model, target_modules=["lin0"]).merge_and_unload()
    assert type(merged.lin1.weight) is OneWay
    assert "hf_quantizer" in vars(merged)


def test_model_whose_adapted_layers_are_plain_stays_quantized_elsewhere() -> None:
    model = LINEAR.model()
    quantize(model.lin1)
    merged = adapted(model, target_modules=["lin0"]).merge_and_unload()
    assert type(merged.lin1.weight) is Quantized


def test_unload_gives_the_quantized_model() -> None:
    model = base()
    quantized = [model.lin0, model.lin1]
    model = adapted(model)
    model.merge_adapter()
    model.unmerge_adapter()
    unloaded = model.unload()
    assert [unloaded.lin0, unloaded.lin1] == quantized


@pytest.mark.parametrize(
    ("weight", "dtype"),
    [
        (OneWay(torch.zeros(10, 6), requires_grad=False), "torch.float32"),
        (nn.Parameter(torch.zeros(10, 6, dtype=torch.int8), requires_grad=False), "torch.int8"),
        (nn.Parameter(torch.zeros(10, 6).to(torch.float8_e4m3fn), requires_grad=False), "float8"),
    ],
    ids=["one_way", "int8", "float8"],
)
def test_weight_that_cannot_be_dequantized_is_refused(weight: nn.Parameter, dtype: str) -> None:
    model = adapted(target_modules=["lin0"])
    layer = adapted_layers(model)[0]
    layer.get_base_layer().weight = weight
    with pytest.raises(UserError) as raised:
        model.merge_adapter()
    message = str(raised.value)
    for part in ("'default'", type(weight).__name__, dtype, "without quantization"):
        assert part in message
    assert not layer.merged


def test_layer_that_passes_no_gradient_on_is_refused_in_training() -> None:
    class NoGradient(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).detach()

    model = nn.Sequential(nn.Linear(4, 4), NoGradient(4, 4))
    adapter = adapted(model, target_modules=["1"])
    with torch.no_grad():
        adapter(torch.ones(1, 4))
    with pytest.raises(UserError, match=r"'default'.*NoGradient.*no gradient"):
        adapter(torch.ones(1, 4, requires_grad=True))


def test_quantized_embedding_is_refused() -> None:
    model = EMBEDDING.model()
    quantize(model.emb)
    with pytest.raises(UserError, match=r"'emb' is a quantized Embedding"):
        get_peft_model(model, EMBEDDING.config())
