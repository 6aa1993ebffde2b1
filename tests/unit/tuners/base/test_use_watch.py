"""Layers that no loss reaches are named once, have no gradient, and come last in pruning."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import Tensor, nn
from transformers import MambaConfig, MambaForCausalLM

from lora2 import Lora2Config, RankAllocator, SoraConfig, UserError
from lora2.tuners.sora import GateThreshold

STEPS = 12
WAITED = 10
NAMES = ["first", "second", "idle", "lost", "late"]


class PartlyUsed(nn.Module):
    """`idle` is not called, of `lost` the output is not used, and `late` is once, in some step."""

    def __init__(self) -> None:
        super().__init__()
        # Equal values are kept in this order.
        self.idle, self.lost, self.late = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor, step: int = 0) -> Tensor:
        self.lost(x)
        x = self.second(torch.tanh(self.first(x)))
        return self.late(x) if step == 5 else x


class AttentionOutput(nn.Module):
    """An attention layer, whose out_proj torch does not call."""

    def __init__(self) -> None:
        super().__init__()
        self.attn, self.lin = nn.MultiheadAttention(6, 3), nn.Linear(6, 6)

    def forward(self, x: Tensor, step: int = 0) -> Tensor:
        x = self.lin(x)
        return self.attn(x, x, x)[0]


def lora2_model(base: nn.Module, targets: list[str], **fields: Any) -> Any:
    torch.manual_seed(0)
    return get_peft_model(base, Lora2Config(target_modules=targets, k=2, init_r=2, **fields))


def train(model: nn.Module, stepped: Any, steps: int = STEPS) -> None:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    dtype = next(model.parameters()).dtype
    for step in range(steps):
        optimizer.zero_grad()
        x = torch.linspace(-1, 1, 18, dtype=dtype).view(3, 6)
        model(x, step=step).square().mean().backward()
        optimizer.step()
        stepped.step()


def warned(model: nn.Module, stepped: Any, steps: int = STEPS) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(model, stepped, steps)
    return [str(warning.message) for warning in caught]


def test_unused_layers_are_named_once() -> None:
    model = lora2_model(PartlyUsed(), NAMES)
    (sentence,) = warned(model, RankAllocator(model, STEPS))
    assert sentence.startswith(
        "Adapter 'default' does nothing in 2 of its 5 layers, base_model.model.idle, "
        f"base_model.model.lost: they had no gradient in the first {WAITED} optimizer steps"
    )
    assert "exclude_modules" in sentence


def test_short_training_warns_at_its_end() -> None:
    model = lora2_model(PartlyUsed(), ["first", "idle"])
    allocator = RankAllocator(model, 3)
    assert warned(model, allocator, 2) == []
    (sentence,) = warned(model, allocator, 1)
    assert "first 3 optimizer steps" in sentence


def test_out_proj_of_attention_is_named_with_what_to_do() -> None:
    model = lora2_model(AttentionOutput(), ["lin", "out_proj"])
    (sentence,) = warned(model, RankAllocator(model, STEPS))
    assert "layers, base_model.model.attn.out_proj: " in sentence
    assert "name itself in target_modules, not its out_proj" in sentence


@pytest.mark.parametrize("targets", [["first", "second"], ["first", "late"]])
def test_used_layers_are_not_named(targets: list[str]) -> None:
    model = lora2_model(PartlyUsed(), targets)
    assert warned(model, RankAllocator(model, STEPS)) == []


def test_frozen_layer_is_not_named() -> None:
    model = lora2_model(PartlyUsed(), ["first", "second"])
    model.base_model.model.second.requires_grad_(False)
    assert warned(model, RankAllocator(model, STEPS)) == []


def test_gates_that_no_loss_reaches_are_named() -> None:
    config = SoraConfig(target_modules=["first", "idle"], r=2)
    model = get_peft_model(PartlyUsed(), config)
    (sentence,) = warned(model, GateThreshold(model, STEPS))
    assert "does nothing in 1 of its 2 layers, base_model.model.idle" in sentence


# bfloat16 has 𝒱 cast in the batch of all layers.
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unused_layer_has_no_gradient(dtype: torch.dtype) -> None:
    model = lora2_model(PartlyUsed().to(dtype), NAMES, init_weights=False)
    model(torch.ones(3, 6, dtype=dtype)).sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            used = ".first." in name or ".second." in name
            assert (parameter.grad is not None) == used, name


@pytest.mark.filterwarnings("ignore:Adapter 'default' does nothing in:UserWarning")
@pytest.mark.parametrize("importance", ["reduced", "full"])
def test_unused_layer_takes_no_budget(importance: str) -> None:
    # 6 values, 4 of them in layers that are used: those 4 are the budget.
    targets = ["idle", "first", "second"]
    model = lora2_model(
        PartlyUsed(), targets, target_r=4 / 3, tinit=0, tfinal=8, importance=importance
    )
    allocator = RankAllocator(model, STEPS)
    with torch.no_grad():
        # A singular value that never changes the output is important at 0, like the unused ones.
        model.base_model.model.first.lora2_u["default"][:, 0] = 0
        model.base_model.model.first.lora2_U["default"][0] = 0
    train(model, allocator)
    assert allocator.budget == 4
    kept = {name.split(".")[-1]: count for name, count in allocator.kept_by_module().items()}
    assert kept == {"first": 2, "second": 2, "idle": 0}


@pytest.mark.parametrize("target", ["out_proj", "conv1d"])
def test_what_pefts_lora_refuses_is_refused_with_its_reason(target: str) -> None:
    base = MambaForCausalLM(
        MambaConfig(vocab_size=10, hidden_size=8, num_hidden_layers=1, state_size=2)
    )
    with pytest.raises(UserError, match=rf"'{target}' .* incompatible with Mamba-based"):
        get_peft_model(base, Lora2Config(target_modules=[target]))


class WithParameter(nn.Module):
    """`idle` is a layer, and a matrix of `inner`, that nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.idle, self.inner = nn.Linear(6, 6), nn.Linear(6, 6), nn.Module()
        self.inner.matrix = nn.Parameter(torch.randn(6, 6))

    def forward(self, x: Tensor, step: int = 0) -> Tensor:
        return self.first(x)


def test_the_names_that_are_told_are_those_that_exclude_modules_takes() -> None:
    fields: dict[str, Any] = {"target_parameters": ["inner.matrix"]}
    model = lora2_model(WithParameter(), ["first", "idle"], **fields)
    with pytest.warns(UserWarning, match=r"does nothing in 2 of its 3 layers") as caught:
        train(model, RankAllocator(model, STEPS))
    named = ["idle", "inner.matrix"]
    assert f"Name them in exclude_modules, as in {named};" in str(caught[0].message)
    model = lora2_model(WithParameter(), ["first", "idle"], exclude_modules=named)
    train(model, RankAllocator(model, STEPS))
