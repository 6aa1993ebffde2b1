"""SoRA merged, as a LoRA, and together with other adapters."""

import torch
from peft import LoraConfig, PeftModel, convert_to_lora, get_peft_model
from peft.utils import set_peft_model_state_dict

from lora2.tuners.base.layers.finding import layers_of_type
from lora2.tuners.sora import GateThreshold, prune_gates
from lora2.tuners.sora.layer import SoraLayer
from unit.models import LINEAR, Kind, rows
from unit.sora import adapted, close, config, deltas, every_kind, every_pruning, layers


@every_kind
def test_merge_equals_forward_and_unmerge_restores(kind: Kind) -> None:
    model, x = adapted(kind), kind.inputs()
    expected = model(x)
    weight = layers(model)[0].get_base_layer().weight.detach().clone()
    model.merge_adapter()
    torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)
    assert not torch.equal(layers(model)[0].get_base_layer().weight, weight)
    model.unmerge_adapter()
    torch.testing.assert_close(layers(model)[0].get_base_layer().weight, weight)
    merged = model.merge_and_unload(safe_merge=True)
    assert [type(m) for m in merged.modules()] == [type(m) for m in kind.model().modules()]
    torch.testing.assert_close(merged(x), expected, atol=1e-5, rtol=1e-5)


@every_pruning
def test_a_pruned_adapter_merges(kept: list[list[int]]) -> None:
    model = adapted()
    close(model, kept)
    prune_gates(model)
    expected = model(rows())
    merged = model.merge_and_unload(safe_merge=True)
    torch.testing.assert_close(merged(rows()), expected, atol=1e-5, rtol=1e-5)


def test_it_is_a_lora_exactly() -> None:
    model = adapted(r=2)
    found, state = convert_to_lora(model, rank=2, progressbar=False)
    assert isinstance(found, LoraConfig)
    lora = get_peft_model(LINEAR.model(), found).eval()
    set_peft_model_state_dict(lora, state)
    torch.testing.assert_close(lora(rows()), model(rows()), atol=1e-5, rtol=1e-5)


def two_adapters() -> PeftModel:
    model = adapted()
    model.add_adapter("other", config(r=2, init_weights=False))
    return model


def test_several_adapters_add_up_mix_and_go_away() -> None:
    model, x = two_adapters(), rows()
    plain = LINEAR.model()(x)
    outputs = {}
    for name in ("default", "other"):
        model.set_adapter(name)
        outputs[name] = model(x)
        assert not torch.allclose(outputs[name], plain, atol=1e-4)
    mixed = model(x, adapter_names=["other", "default", "__base__", "default", "other"])
    outputs["__base__"] = plain
    for row, name in enumerate(["other", "default", "__base__", "default", "other"]):
        torch.testing.assert_close(mixed[row], outputs[name][row])
    with model.disable_adapter():
        assert torch.equal(model(x), plain)
    first = layers(model)[0]
    inputs = x[:2]
    model.base_model.set_adapter(["default", "other"])
    change = sum(first.get_delta_weight(name) for name in ("default", "other"))
    torch.testing.assert_close(first(inputs), first.get_base_layer()(inputs) + inputs @ change.T)
    model.set_adapter("default")
    model.delete_adapter("other")
    assert not layers_of_type(model, "other", SoraLayer)
    assert not [name for name, _ in model.named_parameters() if "other" in name]
    assert torch.equal(model(x), outputs["default"])


def test_thresholding_and_pruning_leave_other_adapters_alone() -> None:
    model = two_adapters()
    before = deltas(model)
    GateThreshold(model, 1, "other").step()
    close(model, [[0], []], "other")
    prune_gates(model, "other")
    assert [len(layer.sora_gate["other"]) for layer in layers(model, "other")] == [1, 0]
    assert all(torch.equal(one, two) for one, two in zip(deltas(model), before, strict=True))
    assert model.peft_config["default"].rank_pattern == {}
