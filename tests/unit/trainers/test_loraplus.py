"""LoRA+'s two learning rates by the factors' roles."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model, optimizers
from peft.optimizers import create_loraplus_optimizer, loraplus
from transformers import Trainer

from lora2 import Lora2Callback, UserError, loraplus_groups
from unit.models import layers_of
from unit.tiny_transformers import Examples, bert_batch, tiny_bert
from unit.training_case import arguments, bert_model


def rates(optimizer: torch.optim.Optimizer, model: torch.nn.Module) -> dict[str, set[float]]:
    names = {id(p): name.split(".")[-2] for name, p in model.named_parameters()}
    found: dict[str, set[float]] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            found.setdefault(names[id(parameter)], set()).add(group["lr"])
    return found


def test_the_factor_that_starts_at_zero_has_the_high_rate():
    model = bert_model()
    optimizer = torch.optim.AdamW(loraplus_groups(model, 1e-3, 16, weight_decay=0.1))
    found = rates(optimizer, model)
    assert found.pop("lora2_V") == {16e-3}
    assert set.union(*found.values()) == {1e-3}
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.1}
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == trained


def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    Trainer(
        model, arguments(folder), train_dataset=Examples(bert_batch(16)),
        callbacks=[Lora2Callback()], optimizers=(optimizer, None),
    ).train()  # fmt: skip


@pytest.mark.parametrize("module", [optimizers, loraplus], ids=["package", "module"])
def test_the_helper_of_peft_raises_the_rate_of_the_factor_that_starts_at_zero(module):
    model = bert_model()
    create = module.create_loraplus_optimizer
    optimizer = create(model, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16)
    found = rates(optimizer, model)
    assert found["lora2_V"] == {16e-3}
    for name in ("lora2_v", "lora2_u", "lora2_lambda", "lora2_U"):
        assert found[name] == {1e-3}
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters() if p.requires_grad)


def test_the_helper_of_peft_leaves_a_frozen_factor_out():
    model = bert_model()
    layer = next(iter(layers_of(model).values()))
    frozen = layer.parameters_of("default")["V"].requires_grad_(False)
    optimizer = create_loraplus_optimizer(model, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert not any(p is frozen for p in held)
    assert rates(optimizer, model)["lora2_V"] == {16e-3}


def test_the_helper_of_peft_gives_the_rates_of_lora_as_before():
    model = get_peft_model(tiny_bert(), LoraConfig(target_modules=["query", "value"]))
    optimizer = create_loraplus_optimizer(model, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16)
    names = {id(p): name for name, p in model.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert group["lr"] == (16e-3 if "lora_B" in names[id(parameter)] else 1e-3)


def test_the_helper_of_peft_is_warned_of_where_it_was_imported_before(tmp_path):
    model = bert_model()
    create = create_loraplus_optimizer.__wrapped__
    optimizer = create(model, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16)
    with pytest.warns(UserWarning, match=r"λ the learning rate 0.016 and 𝒱 only 0.001.*loraplus_"):
        train(model, optimizer, tmp_path)


def test_our_own_groups_are_not_warned_of(tmp_path):
    model = bert_model()
    train(model, torch.optim.AdamW(loraplus_groups(model, 1e-3, 4)), tmp_path)


@pytest.mark.parametrize("ratio", [0.5, 0, -1, float("nan"), float("inf"), "16", None, True])
def test_a_ratio_below_one_is_refused(ratio):
    with pytest.raises(UserError, match=f"ratio={ratio!r}"):
        loraplus_groups(bert_model(), 1e-3, ratio)


@pytest.mark.parametrize("rate", [-1e-3, float("nan"), "1e-3", None, True])
def test_a_rate_below_zero_is_refused(rate):
    with pytest.raises(UserError, match=f"lr={rate!r}"):
        loraplus_groups(bert_model(), rate, 16)


@pytest.mark.parametrize("decay", [-1, float("nan"), float("inf"), "x", None, True])
def test_a_weight_decay_below_zero_is_refused(decay):
    with pytest.raises(UserError, match=f"^weight_decay={decay!r}: write a number of 0 or more"):
        loraplus_groups(bert_model(), 1e-3, 16, decay)


@pytest.mark.parametrize("name", ["lr", "ratio", "weight_decay"])
@pytest.mark.parametrize("value", [torch.tensor([1.0, 2.0]), torch.tensor(1j), 10**400])
def test_what_is_not_one_real_number_is_refused(name, value):
    with pytest.raises(UserError, match=f"{name}="):
        loraplus_groups(bert_model(), **{"lr": 1e-3, "ratio": 16, name: value})


def test_a_model_without_our_adapter_is_refused():
    with pytest.raises(UserError, match="no LoRA² adapter"):
        loraplus_groups(tiny_bert(), 1e-3, 4)
