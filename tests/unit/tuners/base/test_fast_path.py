"""torch's encoders compute with the adapters in them, in evaluation as in training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import Tensor, nn

from lora2 import BottleneckConfig, Lora2Config, SoraConfig

FEED_FORWARD = {"target_modules": ["linear1", "linear2"], "init_weights": False}
CONFIGS: dict[str, Any] = {
    "lora2": Lora2Config(k=4, init_r=4, **FEED_FORWARD),
    "lora2_attention": Lora2Config(k=4, init_r=4, target_modules=["self_attn"], init_weights=False),
    "sora": SoraConfig(r=4, **FEED_FORWARD),
    "bottleneck": BottleneckConfig(target_modules=["linear2"], init_std=0.5),
}
every_config = pytest.mark.parametrize("name", CONFIGS)
with_mask = pytest.mark.parametrize("masks", [False, True])


def encoder() -> nn.TransformerEncoder:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 2)


def inputs(masks: bool) -> dict[str, Tensor]:
    x = torch.linspace(-1, 1, 4 * 5 * 16).view(4, 5, 16).sin()
    mask = torch.arange(5) >= torch.tensor([[5], [4], [3], [2]])
    return {"src": x, "src_key_padding_mask": mask} if masks else {"src": x}


def kept(output: Tensor, masks: bool) -> Tensor:
    """The output where the mask is not: torch's nested tensors have zeros there."""
    return output[~inputs(True)["src_key_padding_mask"]] if masks else output


def adapted(name: str) -> Any:
    model = get_peft_model(encoder(), CONFIGS[name])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    return model


@with_mask
@every_config
def test_evaluation_computes_what_training_does(name: str, masks: bool) -> None:
    model, batch = adapted(name), inputs(masks)
    with torch.no_grad():
        trained = kept(model.train()(**batch), masks)
        evaluated = kept(model.eval()(**batch), masks)
        with model.disable_adapter():
            plain = kept(model(**batch), masks)
    torch.testing.assert_close(evaluated, trained, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(evaluated, plain, atol=1e-2)
    expected = kept(encoder().eval()(**batch), masks)
    torch.testing.assert_close(plain, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@with_mask
@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "bottleneck"])
def test_merged_encoder_computes_the_same_and_is_torchs_own_again(name: str, masks: bool) -> None:
    model, batch = adapted(name).eval(), inputs(masks)
    with torch.no_grad():
        expected = kept(model(**batch), masks)
        merged = model.merge_and_unload()
        torch.testing.assert_close(kept(merged(**batch), masks), expected, atol=1e-5, rtol=1e-5)
    assert merged.use_nested_tensor
    assert not any(module._forward_pre_hooks for module in merged.modules())
    assert [type(m) for m in merged.modules()] == [type(m) for m in encoder().modules()]


def test_second_adapter_adds_no_second_hook() -> None:
    model = adapted("lora2")
    model.add_adapter("other", CONFIGS["lora2"])
    layer = model.base_model.model.layers[0].linear1
    assert len(layer._forward_pre_hooks) == 1
    assert model.unload().use_nested_tensor


def test_encoder_without_adapters_keeps_its_fast_path() -> None:
    base = nn.ModuleDict({"encoder": encoder(), "head": nn.Linear(16, 2)})
    get_peft_model(base, Lora2Config(target_modules=["head"], k=2))
    assert base["encoder"].use_nested_tensor
    assert not any(module._forward_pre_hooks for module in base["encoder"].modules())
