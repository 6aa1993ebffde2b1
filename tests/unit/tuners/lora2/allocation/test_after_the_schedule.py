"""What an optimizer does after an allocator's last step, and a state that is resumed on the way."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel

from lora2 import RankAllocator, UserError
from unit.models import rows
from unit.pruning import TOTAL, Loop, base_model, count, kept_values, pruned_model


def test_pruned_values_stay_zero_while_training_goes_on(tmp_path: Path) -> None:
    model = pruned_model()
    allocator = RankAllocator(model, TOTAL)
    loop = Loop(model, allocator)
    list(loop.run(0, TOTAL))
    kept, loop.allocator = kept_values(model), None
    before = model(rows())
    list(loop.run(TOTAL, TOTAL + 5))
    # The optimizer has moved them by its averages in the last step, and nothing computes with that.
    assert count(kept_values(model)) > allocator.kept
    model.save_pretrained(tmp_path)
    after = model.eval()(rows())
    assert kept_values(model) == kept
    assert not torch.allclose(before, after)
    reloaded = PeftModel.from_pretrained(base_model(), tmp_path).eval()
    torch.testing.assert_close(reloaded(rows()), after, atol=1e-6, rtol=1e-6)


def test_two_passes_before_one_backward_pass_are_trained_after_the_end() -> None:
    model = pruned_model()
    loop = Loop(model, RankAllocator(model, TOTAL))
    list(loop.run(0, TOTAL))
    loop.allocator = None
    list(loop.run(TOTAL, TOTAL + 1))
    (model(rows()).square().mean() + model(rows()).mean()).backward()


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
    # The same model goes on with either allocator.
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = loop.optimizer.state_dict()
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
