"""The start of v from gradients, against the dense gradient of each weight."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from lora2 import Lora2Config, UserError, start_from_gradients
from lora2.errors import NumericalError
from lora2.mathematics.signal_directions import signal_directions
from lora2.tuners.lora2 import gradient_start
from lora2.tuners.lora2.layer import lora2_layers
from unit.models import disturb
from unit.tiny_transformers import bert_batch, tiny_bert
from unit.training_case import bert_model, trainer_for

BATCHES = [bert_batch(4, 6, seed=seed) for seed in range(5)]


def adapted(k: int = 2, **fields: Any) -> PeftModel:
    config = Lora2Config(k=k, init_r=4, target_modules=["query", "dense"], **fields)
    return get_peft_model(tiny_bert(), config)


def vs(model: nn.Module) -> dict[str, torch.Tensor]:
    return {
        name: layer.parameters_of("default")["v"].detach().clone()
        for name, layer in lora2_layers(model, "default").items()
    }


def dense_gradients(model: PeftModel) -> dict[str, torch.Tensor]:
    """The gradient of each adapted weight, one a batch, by autograd."""
    model.eval()
    weights = {
        name: layer.get_base_layer().weight
        for name, layer in lora2_layers(model, "default").items()
    }
    found: dict[str, list[torch.Tensor]] = {name: [] for name in weights}
    for weight in weights.values():
        weight.requires_grad_(True)
    for batch in BATCHES:
        for name, gradient in zip(
            weights, torch.autograd.grad(model(**batch).loss, list(weights.values())), strict=True
        ):
            found[name].append(gradient)
    for weight in weights.values():
        weight.requires_grad_(False)
    return {name: torch.stack(each) for name, each in found.items()}


def test_v_is_the_direction_of_largest_signal_to_noise_of_the_weights_gradient():
    model = adapted()
    dense = dense_gradients(model)
    before = vs(model)
    started = start_from_gradients(model, BATCHES)
    assert started == list(before)
    for name, v in vs(model).items():
        expected = signal_directions(dense[name], 2, ridge=1.0).float()
        length = before[name].norm(dim=1).mean()
        assert torch.allclose(v @ v.mT, length**2 * torch.eye(2), atol=1e-6)
        cosines = torch.linalg.svdvals(v @ expected.mT) / length
        assert cosines == pytest.approx(torch.ones(2), abs=1e-4)


class Twice(nn.Module):
    """One layer that is called two times."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(torch.tanh(self.proj(x)))


def test_a_layer_that_is_called_twice_adds_both_gradients():
    torch.manual_seed(0)
    model = get_peft_model(Twice(), Lora2Config(k=1, init_r=1, target_modules=["proj"]))
    data = [torch.randn(6, 4) + 1 for _ in range(4)]

    def loss(model, batch):
        return model(batch).square().mean()

    weight = model.base_model.model.proj.get_base_layer().weight.requires_grad_(True)
    dense = torch.stack([torch.autograd.grad(loss(model, batch), weight)[0] for batch in data])
    weight.requires_grad_(False)
    start_from_gradients(model, data, loss=loss)
    ((v,),) = vs(model).values()
    (expected,) = signal_directions(dense, 1, ridge=1.0).float()
    assert torch.cosine_similarity(v, expected, dim=0).abs().item() == pytest.approx(1, abs=1e-5)


def test_mixtures_of_many_rows_find_nearly_the_same_direction(monkeypatch):
    monkeypatch.setattr(gradient_start, "_ROWS", 24)
    whole, mixed = adapted(k=1), adapted(k=1)
    mixed.load_state_dict(whole.state_dict())
    monkeypatch.setattr(gradient_start, "_ROWS", 10_000)
    start_from_gradients(whole, BATCHES)
    monkeypatch.setattr(gradient_start, "_ROWS", 24)
    start_from_gradients(mixed, BATCHES)
    cosines = [
        float(torch.cosine_similarity(one, other).abs())
        for one, other in zip(vs(whole).values(), vs(mixed).values(), strict=True)
    ]
    assert min(cosines) > 0.5
    assert sum(cosines) / len(cosines) > 0.8


def test_the_model_computes_what_it_did_and_is_left_as_it_was():
    model = adapted(lora_dropout=0.5)
    model.eval()
    before = model(**BATCHES[0]).logits.detach()
    model.train()
    model.base_model.model.bert.embeddings.eval()
    training = {name: module.training for name, module in model.named_modules()}
    state = torch.get_rng_state()
    start_from_gradients(model, BATCHES)
    assert torch.equal(torch.get_rng_state(), state)
    assert {name: module.training for name, module in model.named_modules()} == training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(layer._forward_hooks for layer in lora2_layers(model, "default").values())
    model.eval()
    assert torch.equal(model(**BATCHES[0]).logits, before)


def test_sixteen_batches_are_read_and_no_more():
    read = []

    def batches():
        for number in range(100):
            read.append(number)
            yield BATCHES[number % len(BATCHES)]

    start_from_gradients(adapted(), batches())
    assert len(read) == gradient_start.BATCHES == 16


def test_a_loss_of_ones_own_is_taken():
    model = adapted(k=1)
    seen = []

    def loss(model, batch):
        seen.append(batch)
        return model(input_ids=batch).logits.square().mean()

    start_from_gradients(model, [batch["input_ids"] for batch in BATCHES], loss=loss)
    assert len(seen) == len(BATCHES)


def test_a_conv1d_is_started_in_its_own_orientation():
    torch.manual_seed(0)
    model = nn.Sequential(Conv1D(3, 5))
    peft_model = get_peft_model(model, Lora2Config(k=1, init_r=1, target_modules=["0"]))
    # One input of the five carries all of the signal.
    data = [torch.randn(6, 5) * torch.tensor([5.0, 0, 5, 5, 5]) + torch.tensor([0, 1.0, 0, 0, 0])
            for _ in range(8)]  # fmt: skip
    start_from_gradients(peft_model, data, loss=lambda model, batch: model(batch).sum(-1).mean())
    ((v,),) = vs(peft_model).values()
    assert v.abs().argmax() == 1


def no_loss(model):
    return [{"input_ids": batch["input_ids"]} for batch in BATCHES]


def broken(model):
    batch = dict(BATCHES[0])
    with torch.no_grad():
        model.base_model.model.classifier.bias.fill_(float("nan"))
    return [batch] * 3


@pytest.mark.parametrize(
    ("batches", "error", "said"),
    [
        (lambda model: BATCHES[:1], UserError, "batches: got 1; give two at least"),
        (lambda model: [], UserError, "batches: got 0"),
        (lambda model: 5, UserError, "batches: got 5; give batches as the model takes them"),
        (lambda model: "train", UserError, "batches: got 'train'; give batches"),
        (lambda model: torch.tensor(3), UserError, r"batches: got tensor\(3\); give batches"),
        (lambda model: list, UserError, "batches: got <class 'list'>; give batches"),
        (lambda model: BATCHES[0], UserError, "batches: got one batch; give several"),
        (no_loss, UserError, "returned no loss for a batch"),
        (broken, NumericalError, "NaN or infinity in the gradient of base_model"),
    ],
)
def test_batches_without_a_gradient_are_refused_and_v_stays(batches, error, said):
    model = adapted()
    before = vs(model)
    with pytest.raises(error, match=said):
        start_from_gradients(model, batches(model))
    assert all(torch.equal(v, before[name]) for name, v in vs(model).items())


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (lambda loss: loss.expand(4), "loss: it returned a tensor of 4; return a tensor of one"),
        (torch.Tensor.item, "loss: it returned float; return a tensor of one number"),
        (torch.Tensor.detach, "loss: it does not depend on a trained parameter"),
    ],
)
def test_a_loss_without_gradients_is_refused_and_v_stays(returned, said):
    model = adapted()
    before = vs(model)
    with pytest.raises(UserError, match=said):
        start_from_gradients(
            model, BATCHES, loss=lambda model, batch: returned(model(**batch).loss)
        )
    assert all(torch.equal(v, before[name]) for name, v in vs(model).items())


@pytest.mark.parametrize("loss", [5, 0, "", [], False])
def test_what_cannot_be_called_is_no_loss(loss):
    model = adapted()
    before = vs(model)
    with pytest.raises(UserError, match=rf"^loss={re.escape(repr(loss))} cannot be called; give"):
        start_from_gradients(model, BATCHES, loss=loss)
    assert all(torch.equal(v, before[name]) for name, v in vs(model).items())


def test_a_loss_that_counts_as_false_is_used():
    class Loss(list):
        def __call__(self, model, batch):
            called.append(batch)
            return model(**batch).loss

    called = []
    start_from_gradients(adapted(), BATCHES, loss=Loss())
    assert len(called) == len(BATCHES)


def test_an_adapter_that_no_gradient_reaches_is_refused():
    model = adapted()
    with model.disable_adapter(), pytest.raises(UserError, match="'default' is not active"):
        start_from_gradients(model, BATCHES)
    model.add_adapter("other", model.peft_config["default"])
    with pytest.raises(UserError, match=r"call model.set_adapter\('other'\) before"):
        start_from_gradients(model, BATCHES, "other")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_factors_in_half_precision_get_the_directions_of_float32(dtype):
    expected = adapted()
    start_from_gradients(expected, BATCHES)
    model = adapted()
    for layer in lora2_layers(model, "default").values():
        layer.lora2_v["default"].data = layer.lora2_v["default"].data.to(dtype)
    start_from_gradients(model, BATCHES)
    for name, v in vs(model).items():
        assert v.dtype == dtype
        torch.testing.assert_close(v.float(), vs(expected)[name], atol=2e-2, rtol=2e-2)


def test_a_merged_adapter_is_refused_and_an_unmerged_one_starts():
    model = adapted(init_weights="gradient")
    model.merge_adapter()
    with pytest.raises(UserError, match=r"is merged into the weights.*model\.unmerge_adapter\(\)"):
        start_from_gradients(model, BATCHES)
    model.unmerge_adapter()
    assert start_from_gradients(model, BATCHES)


def test_inference_mode_is_refused():
    model = adapted(init_weights="gradient")
    with torch.inference_mode(), pytest.raises(UserError, match=r"inference_mode\(\).*outside"):
        start_from_gradients(model, BATCHES)
    with torch.no_grad():
        assert start_from_gradients(model, BATCHES)


def test_a_trained_adapter_is_refused():
    model = adapted()
    disturb(model)
    with pytest.raises(UserError, match=r"𝒱 of base_model\.\S+ is not zero"):
        start_from_gradients(model, BATCHES)


def test_other_adapters_and_kinds_are_refused():
    with pytest.raises(UserError, match="no linear layer with a LoRA² adapter 'other'"):
        start_from_gradients(adapted(), BATCHES, "other")
    config = Lora2Config(k=2, target_modules=["word_embeddings"])
    with pytest.raises(UserError, match="no linear layer"):
        start_from_gradients(get_peft_model(tiny_bert(), config), BATCHES)


# With the trainer


def test_the_callback_starts_the_adapter_once_and_training_goes_on(tmp_path: Path) -> None:
    model = bert_model(init_weights="gradient")
    before = vs(model)
    trainer = trainer_for(model, tmp_path, bert_batch(24), save_steps=5, save_strategy="steps")
    starts = []
    original = gradient_start.start_from_gradients

    def counted(*arguments, **named):
        starts.append(vs(model))
        return original(*arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lora2.trainers.lora2_callback.start_from_gradients", counted)
        trainer.train()
    assert len(starts) == 1
    assert all(torch.equal(starts[0][name], v) for name, v in before.items())
    assert trainer.state.global_step > 5
    again = trainer_for(
        bert_model(init_weights="gradient"), tmp_path, bert_batch(24),
        save_steps=5, save_strategy="steps",
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lora2.trainers.lora2_callback.start_from_gradients", counted)
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert len(starts) == 1
    whole, resumed = (
        lora2_layers(each.model, "default") for each in (trainer, again)
    )  # fmt: skip
    for name, layer in whole.items():
        for one, other in zip(
            layer.tensors_of("default"), resumed[name].tensors_of("default"), strict=True
        ):
            assert torch.equal(one, other)


def test_a_loop_that_starts_nothing_is_told_so_once():
    model = adapted(init_weights="gradient")
    model.train()
    with pytest.warns(UserWarning, match="init_weights='gradient', but nothing has started it"):
        model(**BATCHES[0])
    model(**BATCHES[0])
    started = adapted(init_weights="gradient")
    start_from_gradients(started, BATCHES)
    started.train()(**BATCHES[0])


class Router(nn.Linear):
    """Returns the choice before the logits, as no plain linear layer does."""

    def forward(self, x: torch.Tensor) -> Any:
        logits = nn.functional.linear(x, self.weight, self.bias)
        return logits.argmax(-1), logits.flatten(0, -2)


class Routed(nn.Module):
    def __init__(self, kind: type) -> None:
        super().__init__()
        self.router = kind(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result = self.router(x)
        return result[1] if isinstance(result, tuple) else result


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True)
        self.head = nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.attention(x, x, x)[0])


class Uncalled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(12)
        self.read_only = nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(self.norm(x), self.read_only.weight)


def started(base: nn.Module, targets: list[str], **fields: Any) -> tuple[list[str], PeftModel]:
    torch.manual_seed(0)
    config = Lora2Config(k=2, init_r=2, target_modules=targets, init_weights="gradient", **fields)
    model = get_peft_model(base, config)
    batches = list(torch.randn(3, 2, 5, 12))
    return start_from_gradients(model, batches, loss=lambda model, x: model(x).pow(2).mean()), model


# Of a forward of its own, which is called with the sum as its weight.
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_layer_that_returns_several_tensors_starts_as_a_plain_one():
    plain, router = Routed(nn.Linear), Routed(Router)
    router.load_state_dict(plain.state_dict())

    found, model = started(router, ["router"])

    assert found == ["base_model.model.router"]
    (v,), (expected,) = vs(model).values(), vs(started(plain, ["router"])[1]).values()
    torch.testing.assert_close(v, expected)


def test_a_projection_that_attention_does_not_call_is_left_out():
    found, _ = started(Attending(), ["attention", "head"])
    assert found == ["base_model.model.head"]
    with pytest.raises(UserError, match="calls no linear layer with a LoRA² adapter 'default'"):
        started(Attending(), ["attention"])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_linear_layers_that_no_gradient_reaches_are_named():
    said = r"fewer than two of the 3 batches reached the linear layers \(base_model.*\.read_only\)"
    with pytest.raises(UserError, match=said):
        started(Uncalled(), ["read_only"], modules_to_save=["norm"])
