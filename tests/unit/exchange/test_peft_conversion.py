"""PEFT's own conversion to LoRA, for adapters that are one already."""

from pathlib import Path

import pytest
import torch
from peft import LoHaConfig, PeftModel, get_peft_model
from peft.tuners.lora.conversion import convert_to_lora, save_as_lora

from lora2 import compact_adapter
from unit.kind_case import adapted
from unit.models import CONV1D, CONV2D, LINEAR, ConvolutionModel, Kind, difference, layers_of

WIDE = Kind("wide", LINEAR.make, LINEAR.inputs, ["lin0"])


# PEFT's conversion does not tell its own LoRA that a Conv1D's weight is transposed.
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning")
@pytest.mark.parametrize("kind", [WIDE, CONV1D, CONV2D], ids=["linear", "conv1d", "conv2d"])
@pytest.mark.parametrize("rank", [3, 5, 1.0])
def test_peft_converts_without_a_decomposition_of_the_change(
    kind: Kind, rank: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = adapted(kind), kind.inputs()
    monkeypatch.setattr(
        "lora2.tuners.base.layers.adapted_layer.AdaptedLayer.get_delta_weight",
        lambda *_: pytest.fail("the whole change was made"),
    )
    save_as_lora(tmp_path, model, rank=rank)
    exported = PeftModel.from_pretrained(kind.model(), tmp_path).eval()
    assert difference(exported(x), model(x)) < 1e-5


@pytest.mark.filterwarnings("ignore:LoRA adapter added to ConvNd layer:UserWarning")
@pytest.mark.parametrize("rank", [6, 1.0])
def test_peft_converts_a_grouped_convolution(rank: float, tmp_path: Path) -> None:
    kind = Kind("grouped", lambda: ConvolutionModel(groups=2), CONV2D.inputs, ["conv"])
    model, x = adapted(kind), kind.inputs()
    save_as_lora(tmp_path, model, rank=rank)
    exported = PeftModel.from_pretrained(kind.model(), tmp_path).eval()
    assert difference(exported(x), model(x)) < 1e-5
    with pytest.raises(ValueError, match="multiple of"):
        convert_to_lora(model, rank=3)


@pytest.mark.parametrize(("rank", "expected"), [(1, 1), (2, 2), (0.5, 1), (0.999999, 3)])
def test_peft_converts_to_the_nearest_lora_of_a_lower_rank(rank: float, expected: int) -> None:
    model = adapted(WIDE)
    with torch.no_grad():
        # Singular values that fall, so that the shares above are of one, and of all three.
        model.get_base_model().lin0.lora2_V["default"].mul_(torch.tensor([[1.0], [0.1], [0.1]]))
    _, tensors = convert_to_lora(model, rank=rank)
    A, B = (tensors[f"base_model.model.lin0.lora_{part}.weight"] for part in "AB")
    left, sigma, right = torch.linalg.svd(model.get_base_model().lin0.get_delta_weight("default"))
    best = (left[:, :expected] * sigma[:expected]) @ right[:expected]
    assert A.shape == (expected, 6)
    torch.testing.assert_close(B @ A, best, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("rank", "expected"), [(3, 3), (1.0, 1)])
def test_peft_converts_pruned_values_to_zeros(rank: float, expected: int) -> None:
    model = adapted(WIDE)
    model.get_base_model().lin0.lora2_lambda["default"].data[1:] = 0
    _, tensors = convert_to_lora(model, rank=rank)
    A, B = (tensors[f"base_model.model.lin0.lora_{part}.weight"] for part in "AB")
    assert A.shape == (expected, 6)
    assert not A[1:].any()
    assert not B[:, 1:].any()


def test_peft_refuses_a_rank_beyond_the_weight() -> None:
    with pytest.raises(ValueError, match="choose a lower rank"):
        convert_to_lora(adapted(WIDE), rank=7)


def test_peft_still_converts_its_own_methods() -> None:
    model = get_peft_model(LINEAR.model(), LoHaConfig(target_modules=["lin0"], r=2)).eval()
    config, tensors = convert_to_lora(model, rank=4)
    assert config.r == 4
    assert tensors["base_model.model.lin0.lora_A.weight"].shape == (4, 6)


@pytest.mark.parametrize("rank", [2, 0.99])
def test_a_module_of_which_nothing_is_left_becomes_a_lora_of_zeros(rank: float) -> None:
    model, x = adapted(WIDE), WIDE.inputs()
    for layer in layers_of(model).values():
        layer.parameters_of("default")["lam"].data.zero_()
        layer.lora2_states["default"].is_finished = True
    compact_adapter(model)
    config, state = convert_to_lora(model, rank)
    assert config.r == (2 if rank == 2 else 1)
    B = [tensor for name, tensor in state.items() if "lora_B" in name]
    assert B
    assert not any(tensor.any() for tensor in B)
    assert torch.equal(model(x), model.get_base_model()(x))
