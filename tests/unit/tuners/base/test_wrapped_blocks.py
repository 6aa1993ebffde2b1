"""Models whose blocks torch has wrapped, which is in the names of modules, and not of tensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    apply_activation_checkpointing,
    checkpoint_wrapper,
)
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from lora2 import Lora2Config, RankAllocator, compact_adapter
from lora2.errors import UserError
from lora2.tuners.bottleneck import BottleneckConfig
from lora2.tuners.sora import SoraConfig
from unit.models import disturb
from unit.tiny_transformers import tiny_llama

TARGETS = ["q_proj", "v_proj"]
CONFIGS = {
    "lora2": Lora2Config(task_type="CAUSAL_LM", target_modules=TARGETS, k=2, init_r=2),
    "patterns": Lora2Config(
        task_type="CAUSAL_LM",
        target_modules=TARGETS,
        k=2,
        init_r=2,
        k_pattern={"model.layers.0.self_attn.q_proj": 1},
        alpha_pattern={"model.layers.0.self_attn.q_proj": 7},
    ),
    "sora": SoraConfig(task_type="CAUSAL_LM", target_modules=TARGETS, r=2),
    "bottleneck": BottleneckConfig(
        task_type="CAUSAL_LM", target_modules=["o_proj"], bottleneck_size=2
    ),
    "whole modules inside": Lora2Config(
        task_type="CAUSAL_LM", target_modules=TARGETS, modules_to_save=["input_layernorm"]
    ),
}
every_config = pytest.mark.parametrize("name", CONFIGS)


def wrap(model: nn.Module) -> None:
    apply_activation_checkpointing(
        model, check_fn=lambda module: isinstance(module, LlamaDecoderLayer)
    )


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(8)[None]).logits


def adapted(name: str) -> PeftModel:
    model = get_peft_model(tiny_llama(), CONFIGS[name])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


@every_config
def test_an_adapter_in_wrapped_blocks_is_saved_as_in_plain_ones(name: str, tmp_path: Path) -> None:
    model = adapted(name)
    model.save_pretrained(tmp_path / "plain")
    wrap(model)
    model.save_pretrained(tmp_path / "wrapped")
    plain, wrapped = (
        load_file(tmp_path / kind / "adapter_model.safetensors") for kind in ("plain", "wrapped")
    )
    assert plain
    assert plain.keys() == wrapped.keys()
    assert all(torch.equal(plain[key], wrapped[key]) for key in plain)
    loaded = PeftModel.from_pretrained(tiny_llama(), tmp_path / "wrapped")
    assert torch.equal(logits(loaded), logits(model))


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "whole modules inside"])
def test_an_adapter_is_loaded_into_wrapped_blocks(name: str, tmp_path: Path) -> None:
    model = adapted(name)
    model.save_pretrained(tmp_path)
    base = tiny_llama()
    wrap(base)
    assert torch.equal(logits(PeftModel.from_pretrained(base, tmp_path)), logits(model))
    wrap(model)
    model.load_adapter(tmp_path, "second")
    expected = logits(model)
    model.set_adapter("second")
    assert torch.equal(logits(model), expected)


def test_a_pruned_adapter_in_wrapped_blocks_is_saved_compact(tmp_path: Path) -> None:
    config = Lora2Config(task_type="CAUSAL_LM", target_modules=TARGETS, k=4, target_r=1)
    model = get_peft_model(tiny_llama(), config)
    disturb(model)
    wrap(model)
    allocator = RankAllocator(model, 4)
    assert "model.layers.0.self_attn.q_proj" in next(iter(allocator.kept_by_module()))
    tokens = torch.arange(8)[None]
    for _ in range(4):
        model.train()(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
        allocator.step()
        model.zero_grad()
    expected = logits(model)
    for folder in ("finished", "compact"):
        model.save_pretrained(tmp_path / folder)
        base = tiny_llama()
        for loaded in (tiny_llama(), base):
            if loaded is base:
                wrap(loaded)
            found = logits(PeftModel.from_pretrained(loaded, tmp_path / folder))
            torch.testing.assert_close(found, expected)
        compact_adapter(model)


def test_the_adapter_of_a_wrapped_peft_model_is_found() -> None:
    model = adapted("lora2")
    allocator = RankAllocator(checkpoint_wrapper(model), 4)
    assert allocator.kept_by_module() == RankAllocator(model, 4).kept_by_module()


def test_adapters_in_wrapped_blocks_are_combined() -> None:
    model = adapted("lora2")
    expected = logits(model)
    wrap(model)
    model.add_weighted_adapter(["default"], [1.0], "sum")
    model.set_adapter("sum")
    torch.testing.assert_close(logits(model), expected)


def test_an_adapter_is_loaded_into_blocks_that_were_compiled_one_by_one() -> None:
    saved = get_peft_model_state_dict(adapted("lora2"))
    model = adapted("lora2")
    blocks = model.base_model.model.model.layers
    for position, block in enumerate(blocks):
        blocks[position] = torch.compile(block, backend="eager")
    assert not set_peft_model_state_dict(model, saved).unexpected_keys
    found = get_peft_model_state_dict(model)
    assert found.keys() == saved.keys()
    assert all(torch.equal(found[key], saved[key]) for key in saved)


@every_config
def test_an_adapter_is_not_saved_without_some_of_its_tensors(name: str, tmp_path: Path) -> None:
    model = adapted(name)
    lacking = {key: value for key, value in model.state_dict().items() if "layers.1" not in key}
    with pytest.raises(UserError, match=r"would be saved without .*layers\.1.* and \d+ more"):
        model.save_pretrained(tmp_path, state_dict=lacking)
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_process_that_has_no_state_dict_may_save_nothing() -> None:
    """FSDP gives the state dict to the first process alone, and all call the function."""
    assert not get_peft_model_state_dict(adapted("lora2"), state_dict={})
