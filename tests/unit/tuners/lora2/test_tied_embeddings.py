"""An embedding and a head of one weight: each has its own adapter, and the weight stays one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor

from lora2 import Lora2Config, RankAllocator, export_lora
from unit.models import difference, disturb, layers_of
from unit.tiny_transformers import tiny_llama

TOKENS = torch.arange(8)[None] + 3
pytestmark = pytest.mark.filterwarnings(
    "ignore:Model (has|with) `tie_word_embeddings=True`:UserWarning"
)
every_target = pytest.mark.parametrize(
    "targets", [["embed_tokens"], ["lm_head"], ["embed_tokens", "lm_head"]], ids="+".join
)


def base_model() -> Any:
    return tiny_llama(tie_word_embeddings=True)


def adapted(targets: list[str], **fields: Any) -> PeftModel:
    torch.manual_seed(1)
    config = Lora2Config(target_modules=targets, task_type="CAUSAL_LM", k=3, init_r=3, **fields)
    return get_peft_model(base_model(), config).eval()


@torch.no_grad()
def logits(model: Any) -> Tensor:
    return model(input_ids=TOKENS).logits


@every_target
def test_start_is_the_identity_and_disabled_adapters_too(targets: list[str]) -> None:
    model, expected = adapted(targets), logits(base_model())
    assert torch.equal(logits(model), expected)
    disturb(model)
    assert difference(logits(model), expected) > 1e-3
    with model.disable_adapter():
        assert torch.equal(logits(model), expected)


@every_target
def test_it_trains_is_pruned_and_reloads(targets: list[str], tmp_path: Path) -> None:
    model = adapted(targets, target_r=1, tinit=0, tfinal=0.25)
    allocator = RankAllocator(model.train(), total_steps=8)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    losses = []
    for _ in range(8):
        loss = model(input_ids=TOKENS, labels=TOKENS).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        allocator.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert allocator.kept == allocator.budget == len(layers_of(model))
    weights = {id(layer.get_base_layer().weight) for layer in layers_of(model).values()}
    assert len(weights) == 1
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    reloaded = PeftModel.from_pretrained(base_model(), tmp_path).eval()
    torch.testing.assert_close(logits(reloaded), logits(model.eval()), atol=1e-6, rtol=1e-6)


@every_target
def test_exported_adapter_is_loaded_by_peft(targets: list[str], tmp_path: Path) -> None:
    model = adapted(targets)
    disturb(model)
    export_lora(model, tmp_path / "lora", batch={"input_ids": TOKENS})
    exported = PeftModel.from_pretrained(base_model(), tmp_path / "lora").eval()
    assert type(exported.peft_config["default"]) is LoraConfig
    assert difference(logits(exported), logits(model)) < 1e-5
