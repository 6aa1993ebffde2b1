"""Another number of steps than the schedule was made for: on resuming, stopping and best models."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import TrainerCallback

from lora2 import RankAllocator, SoraCallback, UserError
from unit import sora
from unit.models import layers_of
from unit.pruning import TOTAL, Loop, count, kept_values, pruned_model
from unit.trainers.test_sora_callback import bert_model as sora_model
from unit.trainers.test_sora_callback import open_gates
from unit.trainers.test_sora_callback import trainer_for as sora_trainer
from unit.training_case import bert_model, callback_of, trainer_for

pytestmark = pytest.mark.slow

TARGET = 9  # of unit.pruning's model, which starts with 24


def interrupted(stop: int) -> Loop:
    """A loop that has done some of the 20 steps; it prunes from step 4 to 15."""
    model = pruned_model(tinit=0.2, tfinal=0.25, deltaT=1)
    loop = Loop(model, RankAllocator(model, TOTAL))
    list(loop.run(0, stop))
    return loop


def resumed(first: Loop, total: int) -> Loop:
    """The same loop with another number of steps in all."""
    model = pruned_model(tinit=0.2, tfinal=0.25, deltaT=1)
    model.load_state_dict(first.model.state_dict())
    loop = Loop(model, RankAllocator(model, total))
    loop.optimizer.load_state_dict(first.optimizer.state_dict())
    loop.allocator.load_state_dict(first.allocator.state_dict())
    return loop


@pytest.mark.parametrize("total", [9, 12, 16, 19, 21, 30, 60])
@pytest.mark.parametrize("stop", [1, 4, 8])
def test_resumed_with_another_total_ends_at_the_target(stop: int, total: int) -> None:
    first = interrupted(stop)
    already_kept = first.allocator.kept
    with pytest.warns(UserWarning, match=f"step {stop} of 20, and this training has {total} steps"):
        loop = resumed(first, total)
    budgets = [already_kept]
    for _ in loop.run(stop, total):
        kept = count(kept_values(loop.model))
        assert kept == loop.allocator.kept == loop.allocator.budget
        budgets.append(kept)
    # What has been pruned is not given back.
    assert budgets == sorted(budgets, reverse=True)
    last_change = loop.allocator.plan.last_change
    from_then_on = budgets[max(last_change - stop, 1) :]
    assert set(from_then_on) == {TARGET}
    assert loop.allocator.finished


def test_the_warning_names_the_step_at_which_the_target_is_reached() -> None:
    with pytest.warns(UserWarning, match=r"24 singular .* now, and the target of 9 from step 8 on"):
        resumed(interrupted(4), 10)
    with pytest.warns(UserWarning, match=r"target of 9 from step 9 on"):
        resumed(interrupted(8), 10)
    with pytest.warns(UserWarning, match=r"9 singular .* now, and the target of 9 from step 16 on"):
        resumed(interrupted(16), 40)


@pytest.mark.parametrize("total", [7, 8])
def test_no_step_left_for_the_target_is_refused(total: int) -> None:
    first = interrupted(8)
    with pytest.raises(UserError, match=f"total_steps={total}: .* after 8 steps with 1[0-9] sing"):
        resumed(first, total)


def test_fewer_steps_than_were_done_are_fine_once_the_target_is_reached() -> None:
    with pytest.warns(UserWarning, match="step 16 of 20, and this training has 12 steps"):
        loop = resumed(interrupted(16), 12)
    assert loop.allocator.kept == TARGET


def test_equal_totals_are_not_warned_of() -> None:
    loop = resumed(interrupted(8), TOTAL)
    list(loop.run(8, TOTAL))
    assert loop.allocator.kept == TARGET


def test_state_without_the_total_steps_is_taken() -> None:
    """Checkpoints of older versions."""
    first = interrupted(8)
    state = first.allocator.state_dict()
    del state["total_steps"]
    allocator = RankAllocator(pruned_model(tinit=0.2, tfinal=0.25, deltaT=1), 10)
    allocator.load_state_dict(state)
    assert (allocator.completed_steps, allocator.kept) == (8, first.allocator.kept)


def test_resumed_with_another_accumulation_the_trainer_reaches_the_target(tmp_path: Path) -> None:
    options = {"max_steps": -1, "num_train_epochs": 4, "tinit": 0.3, "tfinal": 0.3}
    fields = {name: options.pop(name) for name in ("tinit", "tfinal")}
    model = bert_model(**fields)
    trainer_for(model, tmp_path, save_strategy="steps", save_steps=6, **options).train()
    again = bert_model(**fields)
    trainer = trainer_for(again, tmp_path / "again", gradient_accumulation_steps=2, **options)
    with pytest.warns(UserWarning, match="step 6 of 16, and this training has 8 steps in all"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    last = [entry for entry in trainer.state.log_history if "budget" in entry][-1]
    assert (last["step"], last["budget"], last["kept_singular_values"]) == (8, 12, 12)
    assert callback_of(trainer).allocators["default"].kept == 12


# Calls that a loop of one's own may get wrong


@pytest.mark.parametrize("total", [-1, 10.0, "10", None])
def test_total_steps_that_are_no_number_of_steps_are_refused(total: Any) -> None:
    with pytest.raises(UserError, match=r"total_steps=.* must be a whole number: the optimizer"):
        RankAllocator(pruned_model(), total)


def test_a_step_beyond_the_total_is_refused() -> None:
    loop = interrupted(TOTAL)
    with pytest.raises(UserError, match=rf"total_steps={TOTAL}: step\(\) .* once more than that"):
        next(loop.run(TOTAL, TOTAL + 1))
    assert loop.allocator.completed_steps == TOTAL
    assert loop.allocator.budget == loop.allocator.kept == TARGET


def test_step_before_any_backward_is_refused() -> None:
    with pytest.raises(UserError, match=r"call step\(\) after optimizer.step\(\)"):
        RankAllocator(pruned_model(), TOTAL).step()


# Best models and trainings that stop


class Worsening(TrainerCallback):
    """Makes every evaluation worse than the one before."""

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any, **_: Any) -> None:
        metrics["eval_loss"] = float(state.global_step)


class Improving(TrainerCallback):
    """Makes every evaluation better."""

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any, **_: Any) -> None:
        metrics["eval_loss"] = -float(state.global_step)


class Stop(TrainerCallback):
    """Ends the training after step 4."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = state.global_step == 4


BEST = {
    "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2,
    "load_best_model_at_end": True, "metric_for_best_model": "eval_loss",
}  # fmt: skip


def kept(model: nn.Module) -> int:
    return sum(
        int((layer.lora2_lambda["default"] != 0).sum()) for layer in layers_of(model).values()
    )


def test_best_model_of_before_the_pruning_is_kept_and_warned_of_once(tmp_path: Path) -> None:
    model = bert_model()
    trainer = trainer_for(model, tmp_path, callbacks=(Worsening(),), **BEST)
    sentence = (
        r"step 2, in which adapter 'default' has 36 .* target of 12.* Set eval_delay=7 \(step"
    )
    with pytest.warns(UserWarning, match=sentence) as caught:
        trainer.train()
    assert len(caught) == 1
    assert kept(model) == 36
    logged = [e for e in trainer.state.log_history if "kept_singular_values" in e]
    assert logged[-1]["kept_singular_values"] == 36
    assert logged[-1]["best_step"] == 2
    assert callback_of(trainer).allocators["default"].kept == 36
    best = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    reloaded = bert_model()
    reloaded.load_adapter(str(tmp_path / "checkpoint-2"), "default")
    assert all(torch.equal(tensor, best[name]) for name, tensor in reloaded.state_dict().items())


@pytest.mark.parametrize(
    ("change", "callback"),
    [
        ({}, Improving),
        ({"eval_delay": 7}, Worsening),
        ({"load_best_model_at_end": False}, Worsening),
    ],
    ids=["improving", "delayed", "last"],
)
def test_what_the_warning_advises_ends_at_the_target(
    change: dict, callback: Callable[[], TrainerCallback], tmp_path: Path
) -> None:
    trainer = trainer_for(bert_model(), tmp_path, callbacks=(callback(),), **(BEST | change))
    trainer.train()
    assert kept(trainer.model) == 12
    assert sum(len(m.lora2_lambda["default"]) for m in layers_of(trainer.model).values()) == 12


def test_best_model_of_epochs_is_advised_in_epochs(tmp_path: Path) -> None:
    epochs = {"eval_strategy": "epoch", "save_strategy": "epoch", "max_steps": -1}
    trainer = trainer_for(
        bert_model(), tmp_path, callbacks=(Worsening(),), **(BEST | epochs), num_train_epochs=3
    )
    # 4 steps an epoch; the kept set is final from step 9 of 12.
    with pytest.warns(UserWarning, match=r"Set eval_delay=3 \(epochs\)"):
        trainer.train()


def test_training_that_stops_before_the_target_is_warned_of(tmp_path: Path) -> None:
    trainer = trainer_for(bert_model(), tmp_path, callbacks=(Stop(),))
    with pytest.warns(UserWarning, match=r"ended at step 4 of 10, .* keeps 17 .* and not 12"):
        trainer.train()


def test_best_model_of_sora_is_kept_and_logged_as_it_is(tmp_path: Path) -> None:
    model = sora_model(threshold=0.1)
    trainer = sora_trainer(model, tmp_path, **BEST)
    trainer.add_callback(Worsening())
    with pytest.warns(UserWarning, match=r"the checkpoint of step 2, .* gates are open and not"):
        trainer.train()
    logged = [entry["open_gates"] for entry in trainer.state.log_history if "open_gates" in entry]
    assert open_gates(model) == logged[-1] == logged[1] > logged[-2]
    # Pruned by the gates of the model that was loaded.
    assert sum(len(layer.sora_gate["default"]) for layer in sora.layers(model)) == logged[-1]
    assert any(isinstance(c, SoraCallback) for c in trainer.callback_handler.callbacks)
