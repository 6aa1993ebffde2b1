"""SoRA in transformers' Trainer."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import Trainer

from lora2 import SoraCallback, SoraConfig, UserError
from unit.sora import SCHEDULE, layers
from unit.tiny_transformers import Examples, bert_batch, tiny_bert
from unit.training_case import TOTAL, arguments


def bert_model(**fields: Any) -> PeftModel:
    base = tiny_bert(hidden_dropout_prob=0.1)
    torch.manual_seed(1)
    return get_peft_model(base, SoraConfig(task_type="SEQ_CLS", r=4, **fields))


def trainer_for(model: nn.Module, folder: Path, **options: Any) -> Trainer:
    trainer = Trainer(
        model,
        arguments(folder, **options),
        train_dataset=Examples(bert_batch(16)),
        eval_dataset=Examples(bert_batch(8, seed=1)),
        callbacks=[SoraCallback()],
    )
    trainer.model_accepts_loss_kwargs = False
    return trainer


def open_gates(model: nn.Module) -> int:
    return sum(int(layer.sora_gate["default"].count_nonzero()) for layer in layers(model))


def test_the_trainer_closes_gates_logs_them_and_prunes_at_the_end(tmp_path: Path) -> None:
    model = bert_model(threshold=0.1)
    total = sum(len(layer.sora_gate["default"]) for layer in layers(model))
    trainer = trainer_for(model, tmp_path)
    trainer.train()
    counts = [entry["open_gates"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(counts) == TOTAL
    assert counts == sorted(counts, reverse=True)
    # About a tenth of the standard normal is within 0.1, and two thirds within 1.
    assert total > counts[0] > counts[-1] > 0
    ranks = [len(layer.sora_gate["default"]) for layer in layers(model)]
    assert sum(ranks) == open_gates(model) == counts[-1]
    model.save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(tiny_bert(), tmp_path / "adapter").eval()
    assert torch.equal(loaded(**bert_batch()).logits, model.eval()(**bert_batch()).logits)


def test_only_logs_of_the_training_have_open_gates(tmp_path: Path) -> None:
    trainer = trainer_for(bert_model(), tmp_path, eval_strategy="steps", eval_steps=5)
    trainer.train()
    for entry in trainer.state.log_history:
        assert ("open_gates" in entry) == ("loss" in entry)


def test_the_trainers_step_is_the_optimizers_and_then_the_threshold(tmp_path: Path) -> None:
    def gates_after_a_step(threshold: float) -> list[Tensor]:
        model = bert_model(threshold=threshold, init_weights=False)
        trainer_for(model, tmp_path, max_steps=1).train()
        return [layer.sora_gate["default"].detach() for layer in layers(model)]

    moved, thresholded = gates_after_a_step(0.0), gates_after_a_step(0.3)
    for gates, found in zip(moved, thresholded, strict=True):
        expected = gates.sign() * (gates.abs() - 0.3).clamp(min=0)
        # Pruned, since the training is over.
        torch.testing.assert_close(found, expected[expected != 0])


def test_a_threshold_belongs_to_an_optimizer_step(tmp_path: Path) -> None:
    trainer = trainer_for(bert_model(), tmp_path, gradient_accumulation_steps=2)
    trainer.train()
    callback = next(c for c in trainer.callback_handler.callbacks if isinstance(c, SoraCallback))
    assert callback.thresholds["default"].completed_steps == TOTAL


@pytest.mark.parametrize("steps", [4, TOTAL])
def test_a_resumed_training_ends_as_the_uninterrupted_one(steps: int, tmp_path: Path) -> None:
    whole = bert_model(**SCHEDULE)
    trainer_for(whole, tmp_path, save_strategy="steps", save_steps=2).train()
    resumed = bert_model(**SCHEDULE)
    again = trainer_for(resumed, tmp_path / "resumed")
    again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{steps}"))
    assert 0 < open_gates(whole) < sum(4 for _ in layers(whole))
    for ours, theirs in zip(layers(resumed), layers(whole), strict=True):
        for held in ("sora_A", "sora_gate", "sora_B"):
            assert torch.equal(getattr(ours, held)["default"], getattr(theirs, held)["default"])


def test_an_interrupted_training_is_not_pruned(tmp_path: Path) -> None:
    model = bert_model(threshold=0.1)
    trainer = trainer_for(model, tmp_path)

    class Stop(SoraCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None: ...

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = state.global_step == 3

    trainer.add_callback(Stop())
    trainer.train()
    assert {len(layer.sora_gate["default"]) for layer in layers(model)} == {4}
    assert model.peft_config["default"].rank_pattern == {}


def test_gates_of_an_adapter_that_is_not_trained_stay_as_they_are(tmp_path: Path) -> None:
    model = bert_model(threshold=0.1)
    model.add_adapter("other", SoraConfig(task_type="SEQ_CLS", r=4, threshold=0.1))
    before = [layer.sora_gate["other"].clone() for layer in layers(model, "other")]
    trainer_for(model, tmp_path).train()
    assert open_gates(model) < 4 * len(before)
    after = [layer.sora_gate["other"] for layer in layers(model, "other")]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
    assert model.peft_config["other"].rank_pattern == {}


def test_a_frozen_adapter_is_refused(tmp_path: Path) -> None:
    model = bert_model(inference_mode=True)
    with pytest.raises(UserError, match="no trainable SoRA adapter"):
        trainer_for(model, tmp_path).train()


def test_a_model_without_gates_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="SoraCallback found no trainable SoRA"):
        trainer_for(tiny_bert(), tmp_path).train()
