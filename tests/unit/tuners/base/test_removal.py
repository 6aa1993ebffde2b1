"""An adapter that cannot be put everywhere leaves the model as it was."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn

from lora2 import Lora2Config, SoraConfig, UserError
from unit.tiny_transformers import tiny_llama

IDS = torch.arange(12).view(2, 6) + 3
# What is adapted first, and what then cannot be.
REFUSED: dict[str, dict[str, Any]] = {
    "a module": {"target_modules": ["q_proj", "input_layernorm"]},
    "a parameter": {
        "target_modules": ["q_proj"],
        "target_parameters": ["input_layernorm.weight"],
    },
}


def kinds(model: nn.Module) -> dict[str, type]:
    return {name: type(module) for name, module in model.named_modules()}


@pytest.mark.parametrize("fields", REFUSED.values(), ids=REFUSED)
def test_the_first_adapter_leaves_no_layers(fields: dict[str, Any], tmp_path: Path) -> None:
    base = tiny_llama()
    before, weights = kinds(base), {n: p.data_ptr() for n, p in base.named_parameters()}
    with pytest.raises(UserError, match="LlamaRMSNorm"):
        get_peft_model(base, Lora2Config(k=2, init_r=2, **fields))
    assert kinds(base) == before
    assert {n: p.data_ptr() for n, p in base.named_parameters()} == weights
    model = get_peft_model(base, Lora2Config(target_modules=["v_proj"], init_weights=False)).eval()
    assert {n.split(".")[-3] for n, p in model.named_parameters() if p.requires_grad} == {"v_proj"}
    model.save_pretrained(tmp_path)
    reloaded = PeftModel.from_pretrained(tiny_llama(), tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(reloaded(IDS).logits, model(IDS).logits)


@pytest.mark.parametrize("fields", REFUSED.values(), ids=REFUSED)
def test_a_later_adapter_leaves_the_first(fields: dict[str, Any]) -> None:
    model = get_peft_model(
        tiny_llama(), Lora2Config(target_modules=["q_proj", "v_proj"], init_weights=False)
    ).eval()
    before = kinds(model)
    with torch.no_grad():
        expected = model(IDS).logits
    with pytest.raises(UserError):
        model.add_adapter("second", Lora2Config(k=2, init_r=2, **fields))
    assert kinds(model) == before
    assert [*model.peft_config] == ["default"]
    assert model.active_adapters == ["default"]
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, expected)


def test_other_methods_of_the_package_do_so_too() -> None:
    base = tiny_llama()
    before = kinds(base)
    with pytest.raises(UserError):
        get_peft_model(base, SoraConfig(target_modules=["q_proj", "input_layernorm"]))
    assert kinds(base) == before
