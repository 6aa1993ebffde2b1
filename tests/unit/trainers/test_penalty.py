"""Where the penalty belongs: in the loss of a training step, and nowhere else."""

from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from torch import nn

from lora2 import Lora2Config, weighted_penalty
from unit.models import disturb, layers_of
from unit.tiny_transformers import bert_batch, tiny_bert
from unit.training_case import PRUNING, TOTAL, bert_model, trainer_for
from upstream import ADDED_BY_TRANSFORMERS


def with_penalty(kind: str) -> tuple[nn.Module, nn.Module]:
    """A model in penalty mode, and what knows its penalty."""
    fields = {**PRUNING, "orthogonality": "penalty", "orth_reg_weight": 3.0, "target_r": None}
    if kind == "transformers":
        model = tiny_bert()
        model.add_adapter(Lora2Config(**fields))
    else:
        task = {"task_type": "SEQ_CLS"} if kind == "with_task" else {}
        model = get_peft_model(tiny_bert(), Lora2Config(**fields, **task))
    disturb(model)
    return model, model


@pytest.mark.parametrize(
    "kind",
    ["with_task", "without_task", ADDED_BY_TRANSFORMERS],
)
def test_penalty_is_in_the_training_loss_only(kind: str) -> None:
    model, _ = with_penalty(kind)
    base = model if kind == "transformers" else model.get_base_model()
    batch = bert_batch()
    penalty = weighted_penalty(base)
    outputs = model.train()(**batch)
    task_loss = nn.functional.cross_entropy(outputs.logits, batch["labels"])
    assert penalty.item() > 1
    torch.testing.assert_close(outputs.loss, task_loss + penalty)
    torch.testing.assert_close(outputs["loss"], outputs.loss)
    # Not without gradients, in evaluation, or for a frozen adapter.
    with torch.no_grad():
        torch.testing.assert_close(model(**batch).loss, task_loss)
    torch.testing.assert_close(model.eval()(**batch).loss, task_loss)
    model.train()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    torch.testing.assert_close(model(**batch).loss, task_loss)


@pytest.mark.parametrize("frozen", ["layer", "adapters of the layer"])
def test_the_penalty_stays_where_the_first_layers_are_frozen(frozen: str) -> None:
    model, _ = with_penalty("with_task")
    first = model.get_base_model().bert.encoder.layer[0]
    if frozen == "layer":
        first.requires_grad_(False)
    else:
        for layer in layers_of(first).values():
            layer.enable_adapters(False)
    batch = bert_batch()
    penalty = weighted_penalty(model)
    assert penalty is not None
    outputs = model.train()(**batch)
    task_loss = nn.functional.cross_entropy(outputs.logits, batch["labels"])
    torch.testing.assert_close(outputs.loss, task_loss + penalty)
    assert penalty.item() > 1


class _Dictionary(nn.Module):
    """A model that returns a plain dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.lin0 = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": self.lin0(x).square().mean()}


def test_penalty_is_in_the_loss_of_tuples_and_dictionaries() -> None:
    model, _ = with_penalty("with_task")
    batch = bert_batch()
    expected = model.train()(**batch).loss
    torch.testing.assert_close(model(**batch, return_dict=False)[0], expected)
    del batch["labels"]
    logits = model(**batch, return_dict=False)[0]
    torch.testing.assert_close(logits, model(**batch).logits)

    fields = {"orthogonality": "penalty", "orth_reg_weight": 3.0, "target_modules": ["lin0"]}
    model = get_peft_model(_Dictionary(), Lora2Config(**fields)).train()
    x = torch.randn(4, 6)
    with torch.no_grad():
        task_loss = model(x)["loss"]
    penalty = model.base_model.weighted_penalty()
    assert penalty > 0.1
    torch.testing.assert_close(model(x)["loss"], task_loss + penalty)


def test_penalty_of_an_adapter_added_later_on_other_modules() -> None:
    model, _ = with_penalty("with_task")
    model.add_adapter("later", Lora2Config(
        **PRUNING | {"target_r": None}, task_type="SEQ_CLS", target_modules=["intermediate.dense"],
        orthogonality="penalty", orth_reg_weight=3.0,
    ))  # fmt: skip
    model.set_adapter("later")
    batch = bert_batch()
    outputs = model.train()(**batch)
    task_loss = nn.functional.cross_entropy(outputs.logits, batch["labels"])
    assert outputs.loss > task_loss + 0.1


def test_penalty_is_not_in_the_loss_while_disabled() -> None:
    model, _ = with_penalty("with_task")
    batch = bert_batch()
    model.train()
    with model.disable_adapter():
        outputs = model(**batch)
    torch.testing.assert_close(
        outputs.loss, nn.functional.cross_entropy(outputs.logits, batch["labels"])
    )


def test_penalty_is_not_in_the_evaluation_loss(tmp_path: Path) -> None:
    model = bert_model(orthogonality="penalty", orth_reg_weight=3.0)
    trainer = trainer_for(model, tmp_path, eval_strategy="steps", eval_steps=2)
    trainer.train()
    losses = [e["eval_loss"] for e in trainer.state.log_history if "eval_loss" in e]
    assert len(losses) == TOTAL // 2
    assert max(losses) < 3
    batch = bert_batch(8, seed=1)
    with torch.no_grad():
        logits = model.eval()(**batch).logits
    expected = nn.functional.cross_entropy(logits, batch["labels"]).item()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, abs=1e-5)


def test_penalty_is_callable_for_a_loss_of_ones_own() -> None:
    model, _ = with_penalty("with_task")
    outputs = model.train()(**bert_batch())
    loss = outputs.logits.square().mean() + model.base_model.weighted_penalty()
    loss.backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if "lora2_v" in n)


def test_hook_leaves_with_the_adapter() -> None:
    model, _ = with_penalty("with_task")
    base = model.merge_and_unload().train()
    batch = bert_batch()
    outputs = base(**batch)
    torch.testing.assert_close(
        outputs.loss, nn.functional.cross_entropy(outputs.logits, batch["labels"])
    )
    assert not base._forward_hooks
