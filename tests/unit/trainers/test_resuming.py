"""A training that is cut short: its checkpoints, what resumes from them, and its warnings."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState

from lora2 import Lora2Callback, Lora2Config, UserError
from unit.models import adapter_state, layers_of
from unit.tiny_transformers import bert_batch, tiny_bert
from unit.training_case import PRUNING, TOTAL, bert_model, trainer_for
from upstream import ADDED_BY_TRANSFORMERS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """A folder with a checkpoint of every step, and the adapter at the end."""
    folder = tmp_path_factory.mktemp("whole")
    trainer = trainer_for(bert_model(lora_dropout=0.1), folder, save_strategy="steps", save_steps=1)
    trainer.train()
    return folder, adapter_state(trainer.model)


@pytest.mark.parametrize("step", [1, 3, 4, 6, 7, 9])
def test_resumed_run_ends_bit_for_bit_as_the_whole_one(
    step: int, whole_run: tuple, tmp_path: Path
) -> None:
    folder, expected = whole_run
    trainer = trainer_for(bert_model(lora_dropout=0.1), tmp_path)
    trainer.train(resume_from_checkpoint=str(folder / f"checkpoint-{step}"))
    actual = adapter_state(trainer.model)
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], tensor) for name, tensor in expected.items())


def test_resumed_run_with_restored_callbacks_is_the_same(whole_run: tuple, tmp_path: Path) -> None:
    folder, expected = whole_run
    trainer = trainer_for(
        bert_model(lora_dropout=0.1), tmp_path, restore_callback_states_from_checkpoint=True
    )
    trainer.train(resume_from_checkpoint=str(folder / "checkpoint-5"))
    actual = adapter_state(trainer.model)
    assert all(torch.equal(actual[name], tensor) for name, tensor in expected.items())


def test_every_checkpoint_reloads_as_the_model_it_was(whole_run: tuple) -> None:
    folder, _ = whole_run
    kept = []
    for step in range(1, TOTAL + 1):
        checkpoint = folder / f"checkpoint-{step}"
        reloaded = PeftModel.from_pretrained(tiny_bert(), checkpoint)
        values = [layer.lora2_lambda["default"] for layer in layers_of(reloaded).values()]
        # A checkpoint keeps the pruned values: the optimizer's state has their size.
        assert {len(value) for value in values} == {3}
        kept.append(sum(int((value != 0).sum()) for value in values))
        state = json.loads((checkpoint / "trainer_state.json").read_text())
        assert state["log_history"][-1]["kept_singular_values"] == kept[-1]
    assert kept[:3] == [36] * 3
    assert kept[-4:] == [12] * 4


def test_finished_run_is_compact_in_memory_and_on_disk(whole_run: tuple, tmp_path: Path) -> None:
    _, state = whole_run
    assert sum(len(tensor) for name, tensor in state.items() if name.endswith(".lam")) == 12
    trainer = trainer_for(bert_model(), tmp_path / "run")
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    reloaded = PeftModel.from_pretrained(tiny_bert(), tmp_path / "saved").eval()
    batch = bert_batch()
    with torch.no_grad():
        assert torch.equal(reloaded(**batch).logits, trainer.model.eval()(**batch).logits)
    assert sum(len(layer.lora2_lambda["default"]) for layer in layers_of(reloaded).values()) == 12


def test_best_model_can_be_loaded_at_the_end(tmp_path: Path) -> None:
    trainer = trainer_for(
        bert_model(), tmp_path,
        eval_strategy="steps", eval_steps=2, save_strategy="steps", save_steps=2,
        load_best_model_at_end=True, metric_for_best_model="eval_loss",
    )  # fmt: skip
    trainer.train()
    best = min(e["eval_loss"] for e in trainer.state.log_history if "eval_loss" in e)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(best, abs=1e-5)


def test_unallocated_budget_is_reported_once_and_its_checkpoint_refused(tmp_path: Path) -> None:
    trainer = trainer_for(bert_model(), tmp_path, save_strategy="steps", save_steps=5)
    trainer.remove_callback(Lora2Callback)
    with pytest.warns(UserWarning, match="nothing prunes it: add Lora2Callback") as caught:
        trainer.train()
    assert len([w for w in caught if "nothing prunes it" in str(w.message)]) == 1
    resumed = trainer_for(bert_model(), tmp_path)
    with pytest.raises(UserError, match="step 5 holds no allocator state of adapter 'default'"):
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))


@pytest.mark.parametrize("kind", ["without_task", ADDED_BY_TRANSFORMERS])
def test_unallocated_budget_is_reported_in_every_kind_of_model(kind: str) -> None:
    model = tiny_bert()
    if kind == "transformers":
        model.add_adapter(Lora2Config(**PRUNING))
    else:
        model = get_peft_model(model, Lora2Config(**PRUNING))
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)

    def steps(number: int) -> None:
        for _ in range(number):
            model(**bert_batch()).loss.backward()
            optimizer.step()

    # At the first step λ has no gradient yet, since 𝒱 is zero.
    with pytest.warns(UserWarning, match="nothing prunes it") as caught:
        steps(4)
    assert len(caught) == 1


def test_nobody_is_reported_when_nothing_is_to_be_pruned(tmp_path: Path) -> None:
    trainer = trainer_for(bert_model(target_r=None), tmp_path)
    trainer.remove_callback(Lora2Callback)
    # A warning would be an error.
    trainer.train()
    assert trainer.state.global_step == TOTAL


def test_a_model_that_was_trained_and_pruned_resumes_in_another_trainer(tmp_path: Path) -> None:
    model = bert_model()
    saves = {"save_strategy": "steps", "save_steps": 4}
    trainer_for(model, tmp_path, **saves).train()
    expected = adapter_state(model)
    trainer_for(model, tmp_path, **saves).train(
        resume_from_checkpoint=str(tmp_path / "checkpoint-8")
    )
    assert kept_of(model) == 12
    assert adapter_state(model).keys() == expected.keys()


def test_two_callbacks_are_resumed(tmp_path: Path) -> None:
    saves = {"save_strategy": "steps", "save_steps": 5}
    trainer_for(bert_model(), tmp_path, callbacks=(Lora2Callback(),), **saves).train()
    model = bert_model()
    trainer = trainer_for(model, tmp_path, callbacks=(Lora2Callback(),), **saves)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert kept_of(model) == 12


class _Stop(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        control.should_training_stop = state.global_step == self.step


def test_an_adapter_is_saved_compact_once_its_kept_set_is_settled(tmp_path: Path) -> None:
    # The last three of ten steps change it no more.
    saves = {"save_strategy": "steps", "save_steps": 1}
    trainer = trainer_for(bert_model(), tmp_path / "run", callbacks=(_Stop(TOTAL - 1),), **saves)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    reloaded = PeftModel.from_pretrained(tiny_bert(), tmp_path / "saved")
    assert sum(len(layer.lora2_lambda["default"]) for layer in layers_of(reloaded).values()) == 12
    # And the same trainer goes on.
    trainer.train(resume_from_checkpoint=True)
    # transformers does some steps more where it is stopped within an epoch.
    assert trainer.state.global_step >= TOTAL
    assert kept_of(trainer.model) == 12


@pytest.mark.filterwarnings("ignore:load_best_model_at_end has loaded the checkpoint")
def test_a_best_model_from_within_the_pruning_is_saved_compact(tmp_path: Path) -> None:
    trainer = trainer_for(
        bert_model(), tmp_path / "run", save_strategy="steps", save_steps=1, eval_strategy="steps",
        eval_steps=1, load_best_model_at_end=True, metric_for_best_model="loss",
        greater_is_better=False,
    )  # fmt: skip
    trainer.evaluate = _losses(trainer, best_step=5)
    trainer.train()
    kept = kept_of(trainer.model)
    assert 12 < kept < 36
    trainer.save_model(str(tmp_path / "saved"))
    reloaded = PeftModel.from_pretrained(tiny_bert(), tmp_path / "saved")
    assert sum(len(layer.lora2_lambda["default"]) for layer in layers_of(reloaded).values()) == kept


def _losses(trainer: Any, best_step: int) -> Any:
    original = trainer.evaluate

    def evaluate(*arguments: Any, **named: Any) -> Any:
        found = original(*arguments, **named)
        found["eval_loss"] = abs(trainer.state.global_step - best_step)
        return found

    return evaluate


def test_a_reference_is_filled_once(tmp_path: Path) -> None:
    model = bert_model(target_r=None)
    model.add_adapter("ref", model.peft_config["default"])
    trainer = trainer_for(model, tmp_path)

    def reference() -> list[Tensor]:
        return [layer.parameters_of("ref")["V"].clone() for layer in layers_of(model).values()]

    before = reference()
    for _ in range(2):
        trainer.train()
        assert all(map(torch.equal, reference(), before))


def kept_of(model: PeftModel) -> int:
    return sum(int((m.lora2_lambda["default"] != 0).sum()) for m in layers_of(model).values())


def test_a_finished_adapter_is_trained_twice_by_one_trainer(tmp_path: Path) -> None:
    trainer_for(first := bert_model(), tmp_path / "first").train()
    first.save_pretrained(tmp_path / "adapter")
    model = PeftModel.from_pretrained(tiny_bert(), tmp_path / "adapter", is_trainable=True)
    trainer = trainer_for(model, tmp_path / "second")
    trainer.train()
    trainer.train()
    assert kept_of(model) <= 12


def test_a_training_that_was_started_from_gradients_begins_again(tmp_path: Path) -> None:
    model = bert_model(init_weights="gradient")
    trainer = trainer_for(model, tmp_path, callbacks=(_Stop(3),))
    for _ in range(2):
        with pytest.warns(UserWarning, match="before adapter 'default' reached its target"):
            trainer.train()


class _ScheduleFree(torch.optim.SGD):
    """As those of the package schedulefree: the weights of an evaluation are others."""

    def train(self) -> None:
        """Take the weights of training."""

    def eval(self) -> None:
        """Take those of evaluation."""


def test_an_optimizer_that_would_bring_back_what_is_pruned_is_refused(tmp_path: Path) -> None:
    def trainer_of(model: PeftModel) -> Any:
        optimizer = _ScheduleFree(model.parameters(), lr=0.1)
        trainer = trainer_for(model, tmp_path)
        trainer.optimizer = optimizer
        return trainer

    with pytest.raises(UserError, match="_ScheduleFree makes the weights of an evaluation"):
        trainer_of(bert_model()).train()
    trainer_of(bert_model(target_r=None)).train()


def test_resumed_at_its_end_within_an_epoch_nothing_moves(tmp_path: Path) -> None:
    """transformers 5.23 then does one step too many, at a constant rate with an effect."""
    states = []
    for checkpoint in (None, str(tmp_path / f"checkpoint-{TOTAL}")):
        trainer = trainer_for(
            bert_model(), tmp_path, save_strategy="steps", save_steps=TOTAL,
            lr_scheduler_type="constant", learning_rate=0.05,
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=checkpoint)
        states.append(adapter_state(trainer.model))
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[1][name], tensor) for name, tensor in states[0].items())
