"""What an optimizer does after an allocator's last step, and a state that is resumed on the way."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from peft import PeftModel, get_peft_model_state_dict

from lora2 import RankAllocator, UserError, compact_adapter
from unit.models import rows
from unit.pruning import TOTAL, Loop, base_model, count, kept_values, pruned_model


@pytest.mark.parametrize("fused", [False, True])
def test_pruned_values_count_as_zero_while_training_goes_on(fused: bool, tmp_path: Path) -> None:
    model = pruned_model()
    allocator = RankAllocator(model, TOTAL)
    loop = Loop(model, allocator)
    # A fused optimizer writes without telling autograd.
    parameters = [p for p in model.parameters() if p.requires_grad]
    loop.optimizer = torch.optim.AdamW(parameters, lr=0.02, fused=fused)
    list(loop.run(0, TOTAL))
    kept, loop.allocator = kept_values(model), None
    before = model(rows())
    list(loop.run(TOTAL, TOTAL + 5))
    # The optimizer has moved them by its averages, and nothing computes with that.
    assert count(kept_values(model)) > allocator.kept
    model.save_pretrained(tmp_path)
    reloaded = PeftModel.from_pretrained(base_model(), tmp_path).eval()
    expected = reloaded(rows())
    assert count(kept_values(reloaded)) == allocator.kept
    assert not torch.allclose(before, expected)
    for found in (model(rows()), model.eval()(rows())):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    merged = copy.deepcopy(model).merge_and_unload()
    torch.testing.assert_close(merged(rows()), expected, atol=1e-5, rtol=1e-5)
    compact_adapter(model)
    assert count(kept_values(model)) == count(kept)
    torch.testing.assert_close(model(rows()), expected, atol=1e-6, rtol=1e-6)


def test_a_state_dict_of_a_model_that_trained_on_holds_what_it_computes() -> None:
    model = pruned_model()
    loop = Loop(model, RankAllocator(model, TOTAL))
    list(loop.run(0, TOTAL))
    loop.allocator = None
    list(loop.run(TOTAL, TOTAL + 5))
    expected = model.eval()(rows())
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    other = pruned_model()
    for each in (model, other):
        each.load_state_dict(state)
        torch.testing.assert_close(each.eval()(rows()), expected)


def test_what_is_loaded_after_the_end_is_not_pruned() -> None:
    model = pruned_model()
    whole = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    allocator = RankAllocator(model, TOTAL)
    list(Loop(model, allocator).run(0, TOTAL))
    model.load_state_dict(whole)
    expected = pruned_model()
    expected.load_state_dict(whole)
    torch.testing.assert_close(model(rows()), expected(rows()))
    assert count(kept_values(model)) > allocator.kept


def _states(model: PeftModel, loop: Loop, allocator: RankAllocator) -> dict[str, Any]:
    """Copies of what a loop of one's own saves."""
    parts = {"model": model, "optimizer": loop.optimizer, "allocator": allocator}
    return {name: copy.deepcopy(part.state_dict()) for name, part in parts.items()}


def _saved_values(model: PeftModel, folder: Path) -> int:
    model.save_pretrained(folder)
    return count(kept_values(PeftModel.from_pretrained(base_model(), folder)))


@pytest.mark.parametrize("resumable", [False, True])
@pytest.mark.parametrize("order", [("allocator", "model"), ("model", "allocator")])
def test_a_training_resumed_after_the_schedule_goes_on_as_the_whole_one(
    order: tuple[str, str], resumable: bool
) -> None:
    model = pruned_model()
    allocator = RankAllocator(model, TOTAL, resumable=resumable)
    loop = Loop(model, allocator)
    list(loop.run(0, TOTAL))
    states = _states(model, loop, allocator)
    loop.allocator = None
    list(loop.run(TOTAL, TOTAL + 5))

    other = pruned_model()
    resumed = RankAllocator(other, TOTAL, resumable=resumable)
    again = Loop(other, None)
    again.optimizer.load_state_dict(states["optimizer"])
    for name in order:
        {"allocator": resumed, "model": other}[name].load_state_dict(states[name])
    list(again.run(TOTAL, TOTAL + 5))
    assert torch.equal(other.eval()(rows()), model.eval()(rows()))
    assert other.state_dict().keys() == model.state_dict().keys()


def test_a_finished_adapter_that_was_resumed_is_saved_compact(tmp_path: Path) -> None:
    model = pruned_model()
    loop = Loop(model, RankAllocator(model, TOTAL))
    list(loop.run(0, TOTAL))
    states = _states(model, loop, loop.allocator)
    other = pruned_model()
    other.load_state_dict(states["model"])
    resumed = RankAllocator(other, TOTAL)
    resumed.load_state_dict(states["allocator"])
    assert _saved_values(other, tmp_path / "other") == resumed.kept
    assert _saved_values(model, tmp_path / "model") == resumed.kept


def test_values_that_were_pruned_stay_so_when_the_same_state_is_put_back(tmp_path: Path) -> None:
    model = pruned_model()
    allocator = RankAllocator(model, TOTAL)
    loop = Loop(model, allocator)
    list(loop.run(0, TOTAL))
    # A backup of the weights is put back, as for an evaluation of their average.
    model.load_state_dict(copy.deepcopy(model.state_dict()))
    loop.allocator = None
    list(loop.run(TOTAL, TOTAL + 5))
    assert _saved_values(model, tmp_path) == allocator.kept


def test_making_a_second_allocator_leaves_what_the_model_computes() -> None:
    model = pruned_model()
    loop = Loop(model, RankAllocator(model, TOTAL))
    list(loop.run(0, TOTAL))
    loop.allocator = None
    list(loop.run(TOTAL, TOTAL + 5))
    before = model(rows())
    RankAllocator(model, TOTAL)
    assert torch.equal(model(rows()), before)


@pytest.mark.parametrize("unit", ["values", "parameters"])
@pytest.mark.parametrize("stop", [6, 9, 12])
def test_a_resumed_allocator_has_the_budgets_of_the_whole_training(unit: str, stop: int) -> None:
    def budgets(allocator: RankAllocator, loop: Loop, first: int, last: int) -> list[int]:
        return [allocator.budget for _ in loop.run(first, last)]

    fields = {"budget_unit": unit, "deltaT": 1, "init_r": 3}
    model = pruned_model(**fields)
    allocator = RankAllocator(model, TOTAL)
    loop = Loop(model, allocator)
    budgets(allocator, loop, 0, stop)
    state = {name: tensor.clone() for name, tensor in allocator.state_dict().items()}
    # Another model of the same weights goes on from this state.
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = copy.deepcopy(loop.optimizer.state_dict())
    expected = budgets(allocator, loop, stop, TOTAL)

    other = pruned_model(**fields)
    other.load_state_dict(weights)
    resumed = RankAllocator(other, TOTAL)
    resumed.load_state_dict(state)
    again = Loop(other, resumed)
    again.optimizer.load_state_dict(optimizer)
    assert budgets(resumed, again, stop, TOTAL) == expected
    assert kept_values(other) == kept_values(model)


def test_a_state_of_before_goes_on() -> None:
    model = pruned_model()
    allocator = RankAllocator(model, TOTAL)
    list(Loop(model, allocator).run(0, 9))
    state = allocator.state_dict()
    for name in ("most", "total_steps"):
        del state[name]
    resumed = RankAllocator(model, TOTAL)
    resumed.load_state_dict(state)
    assert (resumed.budget, resumed.kept) == (allocator.budget, allocator.kept)


@pytest.mark.parametrize("counts", [range(0, TOTAL, 10), [0, 1, 2, 5], [1, 2, 4]])
def test_update_and_allocate_refuses_counts_that_leave_steps_out(counts: list[int]) -> None:
    model = pruned_model(total_step=TOTAL)

    def call() -> None:
        for step in counts:
            model(rows()).square().mean().backward()
            model.base_model.update_and_allocate(step)

    with pytest.raises(UserError, match=f"global_step={counts[-1]}: update_and_allocate has not"):
        call()


def test_update_and_allocate_takes_every_micro_batch_of_accumulate() -> None:
    model = pruned_model(total_step=TOTAL)
    accelerator = Accelerator(gradient_accumulation_steps=2, cpu=True)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    prepared, optimizer = accelerator.prepare(model, torch.optim.SGD(trained, lr=0.01))
    for step in range(2 * TOTAL):
        with accelerator.accumulate(prepared):
            accelerator.backward(prepared(rows()).square().mean())
            optimizer.step()
            model.base_model.update_and_allocate(step)
            optimizer.zero_grad()
    assert count(kept_values(model)) == 9


@pytest.mark.parametrize("unit", ["values", "parameters"])
@pytest.mark.parametrize("fault", ["mask", "other sizes"])
def test_a_state_of_another_adapter_is_refused(unit: str, fault: str) -> None:
    fields = {"budget_unit": unit, "init_r": 3}
    state = RankAllocator(pruned_model(**fields), TOTAL).state_dict()
    if fault == "mask":
        del state["mask"]
    else:
        state["mask"] = state["mask"][:-3]
    with pytest.raises(UserError, match="is of an adapter of other sizes"):
        RankAllocator(pruned_model(**fields), TOTAL).load_state_dict(state)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("completed_steps", torch.tensor(-1), "completed_steps=-1 is not from 0 to total_steps"),
        ("completed_steps", torch.tensor(10**6), "completed_steps=1000000 is not from 0"),
        ("completed_steps", torch.tensor(3.7), r"completed_steps=3.7\d* is no whole number"),
        ("completed_steps", torch.tensor(torch.nan), "completed_steps holds NaN or infinity"),
        ("total_steps", torch.tensor(20.5), "total_steps=20.5 is no whole number"),
        ("total_steps", torch.tensor(True), "total_steps=True is no whole number"),
        ("most", torch.tensor(-5), "most=-5 is not from 1 to the first budget of 24"),
        ("most", torch.tensor(10**9), "most=1000000000 is not from 1"),
        ("mask", torch.zeros(24, dtype=torch.bool), "mask keeps no singular value"),
        ("mask", None, "mask is of torch.float32"),
        ("group0.", math.nan, "holds NaN or infinity"),
    ],
)
def test_a_state_of_values_that_no_allocator_has_is_refused(
    key: str, value: Any, says: str
) -> None:
    allocator = RankAllocator(pruned_model(), TOTAL)
    state = allocator.state_dict()
    name = next(name for name in state if name.startswith(key))
    old = state[name]
    changed = torch.full_like(old, value) if isinstance(value, float) else value
    before = allocator.state_dict()
    with pytest.raises(UserError, match=says):
        allocator.load_state_dict(state | {name: old.float() if changed is None else changed})
    assert all(torch.equal(before[each], now) for each, now in allocator.state_dict().items())


def test_a_state_that_is_refused_leaves_the_allocator_as_it_was() -> None:
    model, longer = pruned_model(), pruned_model()
    first = RankAllocator(longer, 2 * TOTAL)
    list(Loop(longer, first).run(0, TOTAL))
    allocator = RankAllocator(model, TOTAL)
    list(Loop(model, allocator).run(0, 9))
    before = {name: tensor.clone() for name, tensor in allocator.state_dict().items()}
    with pytest.raises(UserError, match="no step is left in which to reach its target"):
        allocator.load_state_dict(first.state_dict())
    after = allocator.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    list(Loop(model, allocator).run(9, TOTAL))
    assert allocator.kept == 9


@pytest.mark.parametrize("state", [None, [], "state.safetensors"])
def test_what_is_no_state_is_refused(state: object) -> None:
    with pytest.raises(UserError, match="is no allocator state; give what state_dict"):
        RankAllocator(pruned_model(), TOTAL).load_state_dict(state)  # type: ignore[arg-type]


@pytest.mark.parametrize("fields", [{"orthogonality": "penalty"}, {"init_weights": "gaussian"}, {}])
@pytest.mark.parametrize("order", [("allocator", "model"), ("model", "allocator")])
def test_a_training_that_is_started_over_ends_as_the_first(
    order: tuple[str, str], fields: dict[str, Any]
) -> None:
    model = pruned_model(**fields)
    allocator = RankAllocator(model, TOTAL)
    loop = Loop(model, allocator)
    start = _states(model, loop, allocator)
    list(loop.run(0, TOTAL))
    expected = model(rows())
    for name in order:
        {"allocator": allocator, "model": model}[name].load_state_dict(start[name])
    list(Loop(model, allocator).run(0, TOTAL))
    assert torch.equal(model(rows()), expected)


def test_an_adapter_that_starts_at_zero_can_be_trained_once_its_start_is_put_back() -> None:
    model = pruned_model(init_weights="gaussian")
    start = copy.deepcopy(model.state_dict())
    list(Loop(model, RankAllocator(model, TOTAL)).run(0, TOTAL))
    model.load_state_dict(start)
    before = model(rows())
    list(Loop(model, None).run(0, 5))
    assert not torch.allclose(model(rows()), before)


def test_a_training_that_goes_back_to_its_middle_saves_all_values() -> None:
    model = pruned_model()
    allocator = RankAllocator(model, TOTAL)
    loop = Loop(model, allocator)
    list(loop.run(0, 9))
    middle = _states(model, loop, allocator)
    sizes = {name: tensor.shape for name, tensor in get_peft_model_state_dict(model).items()}
    list(loop.run(9, TOTAL))
    for name, part in (("model", model), ("allocator", allocator)):
        part.load_state_dict(middle[name])
    saved = get_peft_model_state_dict(model)
    assert {name: tensor.shape for name, tensor in saved.items()} == sizes
