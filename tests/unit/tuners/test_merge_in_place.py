"""What becomes of the base parameters when adapters are merged and unmerged."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from torch.nn.utils import (
    parametrizations,
    prune,
    remove_spectral_norm,
    remove_weight_norm,
    spectral_norm,
    weight_norm,
)
from torch.nn.utils.parametrize import remove_parametrizations

from lora2 import Lora2Config, SoraConfig, UserError
from unit.models import KINDS, LINEAR, Kind, base_weights, disturb, layers_of
from unit.tiny_transformers import tiny_llama

TOKENS = torch.arange(8)[None] + 3
MODES: dict[str, Callable[[], Any]] = {
    "plain": lambda: torch.enable_grad(),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
}
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
every_mode = pytest.mark.parametrize("mode", MODES)


def adapted(kind: Kind) -> PeftModel:
    """A model whose adapter changes it."""
    model = get_peft_model(kind.model(), kind.config())
    disturb(model)
    return model


def weights_of(model: nn.Module) -> list[nn.Parameter]:
    return list(base_weights(model).values())


@every_mode
@every_kind
def test_merging_keeps_the_parameter(kind: Kind, mode: str) -> None:
    model = adapted(kind)
    before = weights_of(model)
    values = [weight.detach().clone() for weight in before]
    with MODES[mode]():
        model.merge_adapter()
        assert all(a is b for a, b in zip(weights_of(model), before, strict=True))
        assert not any(map(torch.equal, before, values))
        model.unmerge_adapter()
    assert all(a is b for a, b in zip(weights_of(model), before, strict=True))
    assert not any(weight.is_inference() for weight in before)
    for weight, old in zip(before, values, strict=True):
        torch.testing.assert_close(weight.detach(), old, atol=1e-6, rtol=1e-6)


@every_mode
@every_kind
def test_model_trains_after_it_was_merged(kind: Kind, mode: str) -> None:
    model, x = adapted(kind).train(), kind.inputs()
    model(x).sum().backward()
    with MODES[mode]():
        model.merge_adapter()
        model(x)
        model.unmerge_adapter()
    model.zero_grad()
    model(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("config", [Lora2Config, SoraConfig])
@pytest.mark.parametrize("tied", [False, True])
def test_language_model_trains_on_after_generation_in_inference_mode(
    config: type, tied: bool
) -> None:
    base = tiny_llama(tie_word_embeddings=tied)
    model = get_peft_model(base, config(task_type="CAUSAL_LM")).train()
    with torch.inference_mode():
        model.merge_adapter()
        model.generate(input_ids=TOKENS, max_new_tokens=2)
        model.unmerge_adapter()
    model(input_ids=TOKENS, labels=TOKENS).loss.backward()


def test_merge_is_seen_by_a_backward_pass_that_has_the_old_weight() -> None:
    model = adapted(LINEAR)
    loss = model(LINEAR.inputs()).sum()
    model.merge_adapter()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@every_kind
def test_error_of_many_merges_stays_at_the_rounding(kind: Kind) -> None:
    model = adapted(kind)
    before = [weight.detach().clone() for weight in weights_of(model)]
    for _ in range(50):
        model.merge_adapter()
        model.unmerge_adapter()
    for weight, old in zip(weights_of(model), before, strict=True):
        torch.testing.assert_close(weight.detach(), old, atol=1e-5, rtol=0)


def test_optimizer_of_base_parameters_stays_valid() -> None:
    model = adapted(LINEAR)
    weight = weights_of(model)[0]
    weight.requires_grad_(True)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    model.merge_adapter()
    model.unmerge_adapter()
    before = weight.detach().clone()
    model(LINEAR.inputs()).sum().backward()
    optimizer.step()
    assert not torch.equal(weights_of(model)[0], before)


# PEFT warns that merging tied layers may be wrong, which is tested here.
TIED = pytest.mark.filterwarnings("ignore:Model (has|with) `tie_word_embeddings=True`:UserWarning")


def tied_llama(targets: list[str]) -> PeftModel:
    """A Llama with one weight for embedding and head, of which some are adapted."""
    config = Lora2Config(task_type="CAUSAL_LM", k=3, target_modules=targets)
    model = get_peft_model(tiny_llama(tie_word_embeddings=True), config).eval()
    disturb(model)
    return model


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(input_ids=TOKENS).logits


@TIED
@every_mode
@pytest.mark.parametrize("targets", [["embed_tokens"], ["lm_head"], ["embed_tokens", "lm_head"]])
def test_tied_weight_is_merged_for_one_module_and_comes_back(targets: list[str], mode: str) -> None:
    model = tied_llama(targets)
    weights = weights_of(model)
    before, values = logits(model), weights[0].detach().clone()
    with MODES[mode]():
        model.merge_adapter()
    torch.testing.assert_close(logits(model), before, atol=1e-5, rtol=1e-5)
    assert torch.equal(weights[0], values)
    with MODES[mode]():
        model.unmerge_adapter()
    # The same parameter in both modules again, exactly as it was.
    assert all(a is b for a, b in zip(weights_of(model), weights, strict=True))
    assert torch.equal(weights[0], values)
    assert torch.equal(logits(model), before)


@TIED
def test_tied_weight_that_two_merges_replace_comes_back() -> None:
    model = tied_llama(["embed_tokens"])
    other = Lora2Config(task_type="CAUSAL_LM", k=2, target_modules=["embed_tokens", "lm_head"])
    model.add_adapter("other", other)
    disturb(model, "other", seed=1)
    model.base_model.set_adapter(["default", "other"])
    before, weights = logits(model), weights_of(model)
    values = weights[0].detach().clone()
    # The head alone has the weight in between, but the embedding's is to come back.
    model.merge_adapter(["default"])
    with pytest.warns(UserWarning, match="Already following adapters were merged"):
        model.merge_adapter(["other"])
    torch.testing.assert_close(logits(model), before, atol=1e-5, rtol=1e-5)
    copied = copy.deepcopy(model)
    for each in (model, copied):
        each.unmerge_adapter()
        assert torch.equal(logits(each), before)
        assert len({id(weight) for weight in weights_of(each)}) == 1
    assert torch.equal(weights[0], values)


SHARED: dict[str, Callable[[nn.Parameter], nn.Parameter]] = {
    "one_parameter": lambda weight: weight,
    "one_memory": lambda weight: nn.Parameter(weight.detach()),
}


@pytest.mark.parametrize("share", SHARED.values(), ids=SHARED)
def test_weight_that_was_shared_after_the_adapter_was_added_is_not_changed(
    share: Callable[[nn.Parameter], nn.Parameter],
) -> None:
    model = adapted(LINEAR)
    base = model.base_model.model.lin0.get_base_layer()
    base.other = nn.Linear(6, 10)
    base.other.weight = share(base.weight)
    before = base.weight.detach().clone()
    model.merge_adapter()
    assert torch.equal(base.other.weight, before)


def test_weight_made_in_inference_mode_is_merged_outside_of_it() -> None:
    with torch.inference_mode():
        base = LINEAR.model()
    model = get_peft_model(base, LINEAR.config())
    disturb(model)
    with torch.no_grad():
        expected = model(LINEAR.inputs())
        model.merge_adapter()
        torch.testing.assert_close(model(LINEAR.inputs()), expected, atol=1e-5, rtol=1e-5)


@every_kind
def test_layers_merge_without_the_tuner(kind: Kind) -> None:
    model = adapted(kind)
    before = weights_of(model)
    for layer in layers_of(model).values():
        layer.merge()
    assert all(a is b for a, b in zip(weights_of(model), before, strict=True))


# What computes a weight from others, and what undoes it, by the name that the refusal gives it.
COMPUTED: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "parametrize.remove_parametrizations": (
        parametrizations.weight_norm,
        lambda layer: remove_parametrizations(layer, "weight"),
    ),
    "remove_weight_norm": (weight_norm, remove_weight_norm),
    "remove_spectral_norm": (spectral_norm, remove_spectral_norm),
    "prune.remove": (
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
        lambda layer: prune.remove(layer, "weight"),
    ),
}


@pytest.mark.parametrize("undone_by", COMPUTED)
@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
def test_merging_into_a_weight_that_is_computed_is_refused(undone_by: str) -> None:
    computed, undo = COMPUTED[undone_by]
    base = nn.Sequential()
    base.add_module("layer", computed(nn.Linear(6, 4)).eval())
    model = get_peft_model(base, Lora2Config(target_modules=["layer"], k=2, init_r=2))
    disturb(model)
    x = torch.randn(3, 6)
    expected = model(x).detach()
    for merge in (model.merge_adapter, model.merge_and_unload):
        with pytest.raises(UserError, match=rf"computed from other parameters.*\b{undone_by}\b"):
            merge()
        torch.testing.assert_close(model(x), expected)
    layer = computed(nn.Linear(6, 4))
    undo(layer)
    model = get_peft_model(nn.Sequential(OrderedDict(layer=layer)), model.peft_config["default"])
    disturb(model)
    expected = model(x).detach()
    torch.testing.assert_close(model.merge_and_unload()(x), expected)


class TwoPlaces(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = self.first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(x)))


def test_a_layer_that_is_in_two_places_is_not_merged() -> None:
    config = Lora2Config(k=2, init_r=2, target_modules=["first"], init_weights=False)
    model = get_peft_model(TwoPlaces(), config).eval()
    weight = model.base_model.model.second.weight.clone()

    for merge in (model.merge_adapter, model.merge_and_unload):
        with pytest.raises(UserError, match=r"first and second are one layer .* copy\.deepcopy"):
            merge()

    assert torch.equal(model.base_model.model.second.weight, weight)
