"""PEFT's contract over layer kinds x adapter forms: start, training, saving, merging, removing."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn

from lora2 import Lora2Config, UserError, compact_adapter
from unit.kind_case import adapted
from unit.models import (
    ADAPTER_FORMS,
    KIND_IDS,
    KINDS,
    LINEAR,
    Kind,
    adapter_state,
    base_weights,
    changes,
    check_trains_only,
    disturb,
    layers_of,
    prune_half,
    sgd_steps,
)

every_kind = pytest.mark.parametrize("kind", KINDS, ids=KIND_IDS)
every_form = pytest.mark.parametrize("form", ADAPTER_FORMS)


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the base weights of all adapted layers."""
    return {name: weight.detach().clone() for name, weight in base_weights(model).items()}


@every_form
@every_kind
@torch.no_grad()
def test_start_is_the_identity(kind: Kind, form: str) -> None:
    base, x = kind.model(), kind.inputs()
    expected = base(x)
    model = get_peft_model(base, kind.config(form)).eval()
    assert torch.equal(model(x), expected)


@pytest.mark.parametrize("start", [True, "lora", "orthonormal", "gaussian"])
@every_form
def test_every_start_is_the_identity(form: str, start: bool | str) -> None:
    base, x = LINEAR.model(), LINEAR.inputs()
    expected = base(x)
    model = get_peft_model(base, LINEAR.config(form, init_weights=start)).eval()
    assert torch.equal(model(x), expected)


@every_form
@every_kind
def test_init_weights_false_is_not_the_identity(kind: Kind, form: str) -> None:
    base, x = kind.model(), kind.inputs()
    expected = base(x)
    model = get_peft_model(base, kind.config(form, init_weights=False)).eval()
    assert not torch.allclose(model(x), expected, atol=1e-4, rtol=0)


@every_form
@every_kind
def test_only_adapter_parameters_are_updated(kind: Kind, form: str) -> None:
    model = get_peft_model(kind.model(), kind.config(form, init_weights=False))
    check_trains_only("lora2_", model, kind.inputs())


@every_form
@every_kind
def test_reloaded_adapter_has_the_trained_parameters(kind: Kind, form: str, tmp_path: Path) -> None:
    torch.manual_seed(2)
    model = get_peft_model(kind.model(), kind.config(form))
    sgd_steps(model, kind.inputs(), steps=3, lr=0.5)
    if form == "pruned":
        prune_half(model)
    model.save_pretrained(tmp_path)
    reloaded = PeftModel.from_pretrained(kind.model(), tmp_path)
    before, after = adapter_state(model), adapter_state(reloaded)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        assert torch.equal(reloaded.eval()(kind.inputs()), model.eval()(kind.inputs()))


@every_kind
def test_low_cpu_mem_usage_loads_the_same_adapter(kind: Kind, tmp_path: Path) -> None:
    model, x = adapted(kind), kind.inputs()
    model.save_pretrained(tmp_path)
    reloaded = PeftModel.from_pretrained(kind.model(), tmp_path, low_cpu_mem_usage=True).eval()
    assert {p.device.type for p in reloaded.parameters()} == {"cpu"}
    reloaded.load_adapter(tmp_path, "second", low_cpu_mem_usage=True)
    saved = adapter_state(model)
    for name in ("default", "second"):
        reloaded.set_adapter(name)
        loaded = adapter_state(reloaded, name)
        assert all(torch.equal(loaded[key], tensor) for key, tensor in saved.items())
        # Such tensors lie in memory as they did in the file, and products of numbers that are not
        # aligned round differently in the last place.
        torch.testing.assert_close(reloaded(x), model(x), atol=2e-6, rtol=2e-6)


@every_form
@every_kind
def test_merge_equals_forward(kind: Kind, form: str) -> None:
    model, x = adapted(kind, form), kind.inputs()
    expected = model(x)
    model.merge_adapter()
    torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)
    merged = weights(model)
    # PEFT's layers warn and do nothing the second time.
    with pytest.warns(UserWarning, match="already merged"):
        model.merge_adapter()
    for name, weight in weights(model).items():
        assert torch.equal(weight, merged[name])


@every_form
@every_kind
def test_unmerge_restores_the_weights(kind: Kind, form: str) -> None:
    model, x = adapted(kind, form), kind.inputs()
    before, expected = weights(model), model(x)
    model.merge_adapter()
    assert any(not torch.equal(w, before[n]) for n, w in weights(model).items())
    model.unmerge_adapter()
    for name, weight in weights(model).items():
        torch.testing.assert_close(weight, before[name], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def other_factors(model: PeftModel) -> None:
    disturb(model, seed=1)


def another_scaling(model: PeftModel) -> None:
    for layer in layers_of(model).values():
        layer.set_scale("default", 3.0)


def lower_precision(model: PeftModel) -> None:
    for layer in layers_of(model).values():
        layer.lora2_v.to(torch.bfloat16)


@pytest.mark.parametrize(
    "change", [other_factors, another_scaling, lower_precision, compact_adapter]
)
@every_kind
def test_unmerge_subtracts_what_was_merged_whatever_the_adapter_has_become(
    kind: Kind, change: Callable[[PeftModel], object]
) -> None:
    model = adapted(kind)
    before = weights(model)
    model.merge_adapter()
    change(model)
    model.unmerge_adapter()
    for name, weight in weights(model).items():
        torch.testing.assert_close(weight, before[name], atol=1e-6, rtol=1e-6)


@every_form
@every_kind
def test_merge_and_unload_gives_a_plain_model(kind: Kind, form: str) -> None:
    model, x = adapted(kind, form), kind.inputs()
    expected, plain = model(x), kind.model()
    merged = model.merge_and_unload(safe_merge=True)
    assert [type(m) for m in merged.modules()] == [type(m) for m in plain.modules()]
    assert merged.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(merged(x), expected, atol=1e-5, rtol=1e-5)


@every_kind
def test_unload_gives_the_base_model(kind: Kind) -> None:
    model, x = adapted(kind), kind.inputs()
    assert torch.equal(model.unload()(x), kind.model()(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@every_kind
def test_half_precision_merge_is_within_a_rounding_of_the_weight(
    kind: Kind, dtype: torch.dtype
) -> None:
    torch.manual_seed(1)
    model = get_peft_model(kind.model().to(dtype), kind.config()).eval()
    disturb(model)
    change = changes(model)
    exact = {name: weight.float() + change[name] for name, weight in weights(model).items()}
    x = kind.inputs().to(dtype) if kind.inputs().is_floating_point() else kind.inputs()
    expected = model(x)
    model.merge_adapter()
    for name, weight in weights(model).items():
        assert weight.dtype == dtype
        assert torch.equal(weight, exact[name].to(dtype))
    torch.testing.assert_close(model(x), expected, atol=0.15, rtol=0.1)
    assert model(x).dtype == dtype


@every_kind
def test_several_adapters_merge_at_once_and_one_by_one(kind: Kind) -> None:
    model, x = adapted(kind), kind.inputs()
    model.add_adapter("other", kind.config("k_above_r"))
    disturb(model, "other", seed=1)
    model.base_model.set_adapter(["default", "other"])
    expected = model(x)
    model.merge_adapter(["default", "other"])
    torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)
    model.unmerge_adapter()
    model.merge_adapter(["default"])
    with pytest.warns(UserWarning, match="Already following adapters were merged"):
        model.merge_adapter(["default", "other"])
    torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("symbol", ["v", "u", "lam", "U", "V"])
@every_kind
def test_safe_merge_raises_on_nan_and_leaves_the_weight(
    kind: Kind, symbol: str, bad: float
) -> None:
    model = adapted(kind)
    first = next(iter(layers_of(model).values()))
    with torch.no_grad():
        first.parameters_of("default")[symbol].view(-1)[0] = bad
    before = weights(model)
    with pytest.raises(ValueError, match="NaNs detected"):
        model.merge_adapter(safe_merge=True)
    assert first.merged_adapters == []
    name = next(iter(before))
    assert torch.equal(weights(model)[name], before[name])


@every_form
@every_kind
def test_disable_adapter_gives_the_base_model_and_ends(kind: Kind, form: str) -> None:
    model, x = adapted(kind, form), kind.inputs()
    expected, plain = model(x), kind.model()(x)
    with model.disable_adapter():
        assert torch.equal(model(x), plain)
    assert torch.equal(model(x), expected)
    assert not torch.allclose(expected, plain, atol=1e-3)


def test_disable_adapter_unmerges() -> None:
    model, x = adapted(LINEAR), LINEAR.inputs()
    model.merge_adapter()
    with model.disable_adapter():
        torch.testing.assert_close(model(x), LINEAR.model()(x), atol=1e-6, rtol=1e-5)


@every_kind
def test_deleted_adapter_is_gone(kind: Kind) -> None:
    model, x = adapted(kind), kind.inputs()
    expected = model(x)
    model.add_adapter("other", kind.config("k_above_r"))
    disturb(model, "other", seed=1)
    model.set_adapter("other")
    assert not torch.allclose(model(x), expected, atol=1e-3)
    with pytest.warns(UserWarning, match="other"):
        model.delete_adapter("other")
    assert not any("other" in name for name, _ in model.named_parameters())
    assert not any(layer.has_adapter("other") for layer in layers_of(model).values())
    assert list(model.peft_config) == ["default"]
    assert torch.equal(model(x), expected)


@every_kind
def test_inactive_adapter_changes_nothing_and_active_ones_add_up(kind: Kind) -> None:
    model, x = adapted(kind), kind.inputs()
    alone = model(x)
    model.add_adapter("other", kind.config("k_above_r"))
    disturb(model, "other", seed=1)
    assert torch.equal(model(x), alone)
    first, second = changes(model), changes(model, "other")
    model.base_model.set_adapter(["default", "other"])
    both = model(x)
    plain = kind.model()
    with torch.no_grad():
        for name, change in first.items():
            plain.get_parameter(name).add_(change + second[name])
    torch.testing.assert_close(both, plain(x), atol=1e-5, rtol=1e-5)


@every_kind
def test_several_adapters_train_at_once(kind: Kind) -> None:
    model = adapted(kind)
    model.add_adapter("other", kind.config("k_above_r", init_weights=False))
    model.add_adapter("idle", kind.config(init_weights=False))
    model.base_model.set_adapter(["default", "other"])
    before = {name: adapter_state(model, name) for name in ("default", "other", "idle")}
    sgd_steps(model, kind.inputs(), lr=0.1)
    after = {name: adapter_state(model, name) for name in before}
    for name, state in after.items():
        for key, tensor in state.items():
            assert torch.equal(tensor, before[name][key]) == (name == "idle"), (name, key)


def test_an_adapter_of_another_k_is_not_put_in_the_place_of_one(tmp_path: Path) -> None:
    """The scaling is that of the layer's k; the change would be another than was saved."""
    saved = get_peft_model(LINEAR.model(), Lora2Config(k=2, target_modules=["lin0"]))
    disturb(saved)
    saved.save_pretrained(tmp_path)
    model = get_peft_model(LINEAR.model(), Lora2Config(k=4, target_modules=["lin0"]))
    with pytest.raises(UserError, match=r"k=4 of .*lin0 in the model, and 2 in the saved adapter"):
        model.load_adapter(tmp_path, "default")


def test_adding_an_adapter_leaves_trainability_as_it_is(tmp_path: Path) -> None:
    model = adapted(LINEAR)
    model.save_pretrained(tmp_path)
    model.load_adapter(tmp_path, "loaded")
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == {n for n, _ in model.named_parameters() if n.endswith(".default")}


def test_adapter_loaded_for_inference_is_frozen_unless_asked(tmp_path: Path) -> None:
    adapted(LINEAR).save_pretrained(tmp_path)
    frozen = PeftModel.from_pretrained(LINEAR.model(), tmp_path)
    assert not any(p.requires_grad for p in frozen.parameters())
    trainable = PeftModel.from_pretrained(LINEAR.model(), tmp_path, is_trainable=True)
    assert {n for n, p in trainable.named_parameters() if p.requires_grad} == {
        n for n, _ in trainable.named_parameters() if "lora2_" in n
    }
