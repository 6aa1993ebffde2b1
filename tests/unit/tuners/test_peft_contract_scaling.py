"""What diffusers and PEFT's helpers ask of adapted layers: scales, status, and swapping."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_layer_status, get_model_status
from peft.helpers import rescale_adapter_scale
from peft.utils.hotswap import hotswap_adapter
from torch import Tensor

from lora2 import compact_adapter, export_lora
from unit.kind_case import adapted
from unit.models import KIND_IDS, KINDS, LINEAR, Kind, changes, difference, disturb, layers_of

every_kind = pytest.mark.parametrize("kind", KINDS, ids=KIND_IDS)


@torch.no_grad()
def scaled(kind: Kind, change: dict[str, Tensor], scale: float) -> Tensor:
    """What the base model gives with a multiple of these changes."""
    plain = kind.model()
    for name, each in change.items():
        plain.get_parameter(name).add_(scale * each)
    return plain(kind.inputs())


@torch.no_grad()
@every_kind
def test_scales_multiply_the_change_as_those_of_pefts_lora(kind: Kind) -> None:
    model, x = adapted(kind), kind.inputs()
    change = changes(model)
    # After each of these the change is that many times the one of the config.
    steps = [
        ("set_scale", ("default", 0.5), 0.5),
        ("scale_layer", (4.0,), 2.0),
        ("set_scale", ("default", -1.0), -1.0),
        ("unscale_layer", (2.0,), -0.5),
        ("set_scale", ("another", 3.0), -0.5),
        ("unscale_layer", (), 1.0),
        ("scale_layer", (0.0,), 0.0),
    ]
    for method, arguments, scale in steps:
        for layer in layers_of(model).values():
            getattr(layer, method)(*arguments)
        expected = scaled(kind, change, scale)
        torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_adapters_have_their_own_scales_and_only_active_ones_are_multiplied() -> None:
    model = adapted(LINEAR)
    model.add_adapter("other", LINEAR.config())
    for layer in layers_of(model).values():
        before = dict(layer.scaling)
        layer.set_scale("other", 0.25)
        layer.scale_layer(2.0)
        assert layer.scaling == {"default": 2 * before["default"], "other": before["other"] / 4}


def test_pefts_own_way_to_rescale_takes_only_its_own_layers() -> None:
    model, x = adapted(LINEAR), LINEAR.inputs()
    before = model(x)
    with (
        pytest.raises(ValueError, match=r"only supported for models with `LoraLayer`s"),
        rescale_adapter_scale(model, 0.5),
    ):
        pass
    assert torch.equal(model(x), before)


@every_kind
def test_status_of_layers_and_model(kind: Kind) -> None:
    model = adapted(kind)
    model.add_adapter("other", kind.config("k_above_r"))
    names = {name.removeprefix("base_model.") for name in layers_of(model)}
    statuses = {status.name: status for status in get_layer_status(model)}
    assert statuses.keys() == names
    for status in statuses.values():
        assert status.available_adapters == ["default", "other"]
        assert (status.enabled, status.active_adapters) == (True, ["default"])
        assert status.merged_adapters == []
        assert status.requires_grad == {"default": True, "other": False}
        assert set(status.devices) == {"default", "other"}
    model.merge_adapter()
    status = get_model_status(model)
    assert (status.peft_types, status.num_adapter_layers) == (
        {"default": "LORA2", "other": "LORA2"},
        len(names),
    )
    assert status.merged_adapters == ["default"]
    assert status.trainable_params == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_status_of_a_model_with_an_empty_layer() -> None:
    model = adapted(LINEAR)
    with torch.no_grad():
        model.get_base_model().lin0.lora2_lambda["default"].zero_()
    compact_adapter(model)
    status = get_model_status(model)
    assert (status.num_adapter_layers, status.enabled) == (2, True)
    assert [each.requires_grad["default"] for each in get_layer_status(model)] == [False, True]


def test_pefts_hotswap_takes_only_lora(tmp_path: Path) -> None:
    model, x = adapted(LINEAR), LINEAR.inputs()
    model.save_pretrained(tmp_path)
    before = model(x)
    with pytest.raises(ValueError, match="Hotswapping only supports LORA but LORA2 was passed"):
        hotswap_adapter(model, str(tmp_path), "default")
    assert torch.equal(model(x), before)


@pytest.mark.parametrize("form", ["exact", "pruned", "k_is_one", "k_above_r"])
def test_exported_adapter_is_hotswapped(form: str, tmp_path: Path) -> None:
    first, second, x = adapted(LINEAR), adapted(LINEAR, form), LINEAR.inputs()
    disturb(second, seed=7)
    export_lora(first, tmp_path / "first", batch=x)
    export_lora(second, tmp_path / "second", batch=x)
    served = PeftModel.from_pretrained(LINEAR.model(), tmp_path / "first").eval()
    hotswap_adapter(served, str(tmp_path / "second"), "default", torch_device="cpu")
    assert difference(served(x), second(x)) < 1e-5
