"""Lora2Callback in transformers' Trainer: schedule, logs, and what stops a training."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import TrainerCallback

from lora2 import Lora2Config, UserError
from lora2.errors import NumericalError
from unit.models import adapter_state, disturb, layers_of
from unit.tiny_transformers import bert_batch, tiny_bert
from unit.training_case import TOTAL, bert_model, callback_of, llama_model, token_batch, trainer_for

# Schedule and logs


@pytest.mark.parametrize("accumulation", [1, 3])
def test_total_steps_are_learnt_and_each_optimizer_step_counts_once(
    accumulation: int, tmp_path: Path
) -> None:
    steps: list[int] = []

    class Watch(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            steps.append(callback_of(trainer).allocators["default"].completed_steps)

    trainer = trainer_for(
        bert_model(tinit=0.2, tfinal=0.4, deltaT=1),
        tmp_path,
        bert_batch(24),
        (Watch(),),
        max_steps=-1,
        num_train_epochs=2,
        gradient_accumulation_steps=accumulation,
    )
    trainer.train()
    total = 2 * (24 // 4) // accumulation
    allocator = callback_of(trainer).allocators["default"]
    assert trainer.state.global_step == allocator.plan.total_steps == total
    assert steps == list(range(1, total + 1))
    assert (allocator.plan.warmup_steps, allocator.plan.final_steps) == (
        round(0.2 * total),
        round(0.4 * total),
    )
    assert allocator.finished
    assert allocator.kept == allocator.budget == 12


@pytest.mark.parametrize(
    ("make", "accumulation"), [(bert_model, 1), (bert_model, 3), (llama_model, 3)]
)
def test_logs_hold_task_loss_penalty_budget_and_kept_values(
    make: Callable[..., PeftModel], accumulation: int, tmp_path: Path
) -> None:
    batch = bert_batch(16) if make is bert_model else token_batch(16)
    model = make(orthogonality="penalty", orth_reg_weight=0.5)
    trainer = trainer_for(model, tmp_path, batch, gradient_accumulation_steps=accumulation)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logs) == TOTAL
    for entry in logs:
        assert entry["loss"] == pytest.approx(entry["task_loss"] + entry["penalty"], rel=1e-5)
        # The head start of a random classifier or language model, not multiplied by anything.
        assert 0.3 < entry["task_loss"] < 5
        assert 0.1 < entry["penalty"] < 20
        assert entry["kept_singular_values"] == entry["budget"]
    budgets = [entry["budget"] for entry in logs]
    matrices = len(layers_of(model))
    assert budgets[:3] == [3 * matrices] * 3
    assert budgets[-4:] == [matrices] * 4
    saved = json.loads(json.dumps(logs))
    assert saved == logs


def test_evaluations_hold_what_is_kept_at_their_step(tmp_path: Path) -> None:
    trainer = trainer_for(
        bert_model(tinit=0.2, tfinal=0.2, deltaT=1),
        tmp_path,
        eval_strategy="steps",
        eval_steps=4,
        logging_steps=6,
    )
    trainer.train()
    plan = callback_of(trainer).allocators["default"].plan
    found = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    assert [entry["step"] for entry in found] == [4, 8, TOTAL]
    assert [entry["budget"] for entry in found] == [plan.at(step) for step in (4, 8, TOTAL)]
    assert all(entry["kept_singular_values"] == entry["budget"] for entry in found)


@pytest.mark.parametrize("orthogonality", ["exact", "none"])
def test_without_a_penalty_the_task_loss_is_the_loss(orthogonality: str, tmp_path: Path) -> None:
    trainer = trainer_for(bert_model(orthogonality=orthogonality), tmp_path)
    trainer.train()
    for entry in trainer.state.log_history[:-1]:
        assert entry["task_loss"] == entry["loss"]
        assert "penalty" not in entry


def test_penalty_falls_in_training(tmp_path: Path) -> None:
    model = bert_model(orthogonality="penalty", orth_reg_weight=10.0, target_r=None)
    trainer = trainer_for(model, tmp_path, max_steps=30, learning_rate=3e-2)
    trainer.train()
    penalties = [entry["penalty"] for entry in trainer.state.log_history[:-1]]
    assert penalties[-1] < 0.3 * penalties[0]


# Refusals


def test_model_without_a_trained_adapter_is_refused_at_the_start(tmp_path: Path) -> None:
    trainer = trainer_for(tiny_bert(), tmp_path)
    with pytest.raises(UserError, match="found no trainable LoRA² adapter"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_training_on_with_the_optimizer_of_pruned_parameters_is_refused(tmp_path: Path) -> None:
    trainer = trainer_for(bert_model(), tmp_path)
    trainer.train()
    with pytest.raises(UserError, match="make a new Trainer to train on"):
        trainer.train()


def test_training_on_without_pruning_goes_on(tmp_path: Path) -> None:
    trainer = trainer_for(bert_model(target_r=None), tmp_path)
    trainer.train()
    before = adapter_state(trainer.model)
    trainer.train()
    after = adapter_state(trainer.model)
    assert all(not torch.equal(before[name], after[name]) for name in before)


def test_small_factors_in_bfloat16_become_float32(tmp_path: Path) -> None:
    """As TRL makes them on a quantized base; λ would stay where it is."""
    model = bert_model(target_r=None)
    for name, parameter in model.named_parameters():
        if "lora2_" in name:
            parameter.data = parameter.data.bfloat16()
    trainer_for(model, tmp_path, learning_rate=1e-3).train()
    for layer in layers_of(model).values():
        factors = layer.parameters_of("default")
        assert {factors[name].dtype for name in ("u", "lam", "U")} == {torch.float32}
        assert (factors["lam"] != 1).all()


def test_trls_reference_starts_as_the_adapter_that_is_trained(tmp_path: Path) -> None:
    model = bert_model(target_r=None)
    disturb(model)
    # As TRL does: its copy goes by the names of LoRA's tensors.
    model.add_adapter("ref", model.peft_config["default"])
    expected = {name: layer.get_delta_weight("default") for name, layer in layers_of(model).items()}
    trainer_for(model, tmp_path).train()
    for name, layer in layers_of(model).items():
        torch.testing.assert_close(layer.get_delta_weight("ref"), expected[name])
        assert (layer.get_delta_weight("default") - expected[name]).abs().max() > 1e-4


def test_trls_reference_has_the_size_of_an_adapter_that_was_pruned(tmp_path: Path) -> None:
    model = bert_model()
    trainer_for(model, tmp_path).train()
    model.add_adapter("ref", model.peft_config["default"])
    trainer_for(model, tmp_path)
    for layer in layers_of(model).values():
        torch.testing.assert_close(*map(layer.get_delta_weight, ("ref", "default")))


def test_a_reference_that_has_values_keeps_them(tmp_path: Path) -> None:
    model = bert_model(target_r=None)
    disturb(model)
    model.add_adapter("ref", model.peft_config["default"])
    disturb(model, "ref", 7)
    expected = {name: layer.get_delta_weight("ref") for name, layer in layers_of(model).items()}
    trainer_for(model, tmp_path)
    for name, layer in layers_of(model).items():
        torch.testing.assert_close(layer.get_delta_weight("ref"), expected[name])


def test_an_adapter_named_ref_of_another_config_stays_as_it_is(tmp_path: Path) -> None:
    model = bert_model(target_r=None)
    disturb(model)
    model.add_adapter("ref", Lora2Config(k=3, task_type="SEQ_CLS"))
    trainer_for(model, tmp_path).train()
    assert all(not layer.get_delta_weight("ref").any() for layer in layers_of(model).values())


def test_schedule_that_cannot_fit_is_refused_at_the_start(tmp_path: Path) -> None:
    trainer = trainer_for(bert_model(tinit=6, tfinal=6), tmp_path)
    before = adapter_state(trainer.model)
    with pytest.raises(UserError, match=r"tinit=6 and tfinal=6 take 6 \+ 6 of the 10"):
        trainer.train()
    assert trainer.state.global_step == 0
    after = adapter_state(trainer.model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())


@pytest.mark.parametrize("max_grad_norm", [0, 1])
def test_nan_gradient_stops_with_the_name_of_the_layer(
    max_grad_norm: float, tmp_path: Path
) -> None:
    """Clipping spreads a NaN to all gradients, and so does the trainer's gradient norm."""
    model = bert_model()
    name, layer = list(layers_of(model).items())[7]

    def spoil(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(lambda gradient: gradient * torch.nan)

    layer.register_forward_hook(spoil)
    trainer = trainer_for(model, tmp_path, max_grad_norm=max_grad_norm)
    before = adapter_state(model)
    with pytest.raises(NumericalError, match=f"the gradient of {name}: lower"):
        trainer.train()
    after = adapter_state(model)
    assert all(torch.equal(tensor, before[key]) for key, tensor in after.items())


def test_nan_gradient_of_any_factor_stops_the_training(tmp_path: Path) -> None:
    model = bert_model()
    layer = list(layers_of(model).values())[7]
    layer.lora2_u["default"].register_hook(lambda gradient: gradient * torch.nan)
    with pytest.raises(NumericalError, match=r"the gradient of base_model\.model\.bert"):
        trainer_for(model, tmp_path).train()
