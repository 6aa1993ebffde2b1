"""The allocator on models: budget, kept set, state and importance."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load, save
from torch import Tensor, nn

from lora2 import Lora2Config, RankAllocator, UserError, compact_adapter, truncate_adapter
from lora2.tuners.lora2.allocation.sensitivities import group_by_shape
from unit.models import LINEAR, adapter_state, layers_of, rows
from unit.pruning import FIELDS, LAYERS, TOTAL, Loop, count, kept_values, pruned_model


@pytest.mark.parametrize("importance", ["reduced", "full"])
@pytest.mark.parametrize("schedule", ["cubic", "linear", "constant"])
@pytest.mark.parametrize("interval", [1, 3, 7])
def test_exactly_the_budget_is_kept_at_every_step(
    interval: int, schedule: str, importance: str
) -> None:
    model = pruned_model(deltaT=interval, budget_schedule=schedule, importance=importance)
    allocator = RankAllocator(model, TOTAL)
    assert allocator.budget == allocator.kept == LAYERS * 4
    budgets = []
    for step in Loop(model, allocator).run(0, TOTAL):
        kept = kept_values(model)
        assert allocator.completed_steps == step
        assert count(kept) == allocator.kept == allocator.budget
        assert allocator.kept_by_module() == {name: sum(v) for name, v in kept.items()}
        budgets.append(allocator.budget)
    assert budgets[:4] == [24] * 4
    assert budgets[-6:] == [9] * 6  # 1.5 a matrix, from the last change at step 15 on
    assert budgets == sorted(budgets, reverse=True)
    assert allocator.finished


def test_budget_is_kept_when_all_importances_tie() -> None:
    """With Λ = 0 and gradients of zero every score is 0, and the first ones stay."""
    model = pruned_model(init_weights="gaussian", tinit=0, deltaT=1)
    allocator = RankAllocator(model, TOTAL)
    for layer in layers_of(model).values():
        for parameter in layer.parameters_of("default").values():
            parameter.grad = torch.zeros_like(parameter)
    for _ in range(TOTAL):
        allocator.step()
        assert allocator.kept == allocator.budget
    assert list(allocator.kept_by_module().values()) == [4, 4, 1, 0, 0, 0]


def test_kept_set_is_constant_in_the_final_phase_and_changes_before() -> None:
    model = pruned_model(deltaT=1, budget_schedule="linear")
    allocator = RankAllocator(model, TOTAL)
    sets = [kept_values(model) for _ in Loop(model, allocator).run(0, TOTAL)]
    assert all(kept == sets[-1] for kept in sets[14:])
    assert sets[13] != sets[-1]


def test_a_pruned_value_comes_back_when_it_is_important_before_the_final_phase() -> None:
    model = pruned_model(deltaT=1, tinit=0, tfinal=2, target_r=0.5, budget_schedule="constant")
    allocator = RankAllocator(model, 10)
    layer = next(iter(layers_of(model).values()))

    def step_with_gradient(index: int) -> None:
        for m in layers_of(model).values():
            for parameter in m.parameters_of("default").values():
                parameter.grad = torch.full_like(parameter, 1e-3)
        with torch.no_grad():
            # As an optimizer would, the step moves the value off zero.
            layer.lora2_lambda["default"][index] += 0.1
        layer.lora2_lambda["default"].grad[index] = 1e6
        allocator.step()

    step_with_gradient(0)
    last = next(reversed(layers_of(model).values())).lora2_lambda["default"]
    assert last.tolist() == [0.0] * 4
    pruned = kept_values(model)["base_model.model.body.layers.0.lin0"].index(False)
    step_with_gradient(pruned)
    assert layer.lora2_lambda["default"][pruned] != 0
    assert allocator.kept == allocator.budget
    while allocator.completed_steps < allocator.plan.last_change:
        step_with_gradient(pruned)
    kept = kept_values(model)
    pruned = kept["base_model.model.body.layers.0.lin0"].index(False)
    for _ in range(2):
        step_with_gradient(pruned)
        assert kept_values(model) == kept


@pytest.mark.parametrize(
    ("stop", "importance"),
    [*((stop, "reduced") for stop in (1, 4, 5, 7, 8, 15, 19)), (8, "full")],
)
def test_state_goes_on_bit_for_bit(stop: int, importance: str) -> None:
    whole = pruned_model(importance=importance)
    loop = Loop(whole, RankAllocator(whole, TOTAL))
    list(loop.run(0, TOTAL))

    first = pruned_model(importance=importance)
    interrupted = Loop(first, RankAllocator(first, TOTAL))
    list(interrupted.run(0, stop))
    state = load(save(interrupted.allocator.state_dict()))

    second = pruned_model(importance=importance)
    second.load_state_dict(first.state_dict())
    resumed = Loop(second, RankAllocator(second, TOTAL))
    resumed.optimizer.load_state_dict(interrupted.optimizer.state_dict())
    resumed.allocator.load_state_dict(state)
    assert resumed.allocator.completed_steps == stop
    assert resumed.allocator.kept_by_module() == interrupted.allocator.kept_by_module()
    list(resumed.run(stop, TOTAL))

    expected, actual = adapter_state(whole), adapter_state(second)
    assert all(torch.equal(actual[name], tensor) for name, tensor in expected.items())
    final = loop.allocator.state_dict()
    assert all(torch.equal(t, final[key]) for key, t in resumed.allocator.state_dict().items())


def test_state_dict_is_a_copy() -> None:
    model = pruned_model()
    allocator = RankAllocator(model, TOTAL)
    state = allocator.state_dict()
    before = {key: tensor.clone() for key, tensor in state.items()}
    list(Loop(model, allocator).run(0, 10))
    assert all(torch.equal(tensor, before[key]) for key, tensor in state.items())


def test_a_step_whose_gradients_overflowed_leaves_the_averages_as_they_were() -> None:
    """Such a step float16's loss scaler skips."""
    model = pruned_model()
    allocator = RankAllocator(model, TOTAL)
    loop = Loop(model, allocator)
    list(loop.run(0, 2))
    before = allocator.state_dict()
    last = list(layers_of(model).values())[-1].lora2_lambda["default"]
    last.grad[0] = torch.inf
    allocator.step()
    after = allocator.state_dict()
    assert before.pop("completed_steps") + 1 == after.pop("completed_steps")
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=0)
    list(loop.run(3, TOTAL))
    state = allocator.state_dict().values()
    assert all(torch.isfinite(tensor).all() for tensor in state)


def test_matrices_on_another_device_are_not_stacked_with_the_others() -> None:
    layers = list(layers_of(pruned_model()).values())
    together = group_by_shape(layers, "vuU", "default")
    layers[2].to("meta")
    (apart,) = (group for group in together if 2 in group)
    expected = [group for group in together if group != apart]
    expected += [[2], [position for position in apart if position != 2]]
    assert sorted(group_by_shape(layers, "vuU", "default")) == sorted(expected)


# Importance


def reduced_and_full(model: nn.Module) -> tuple[Tensor, Tensor]:
    scores = []
    for importance in ("reduced", "full"):
        config = Lora2Config(**(FIELDS | {"importance": importance}))
        allocator = RankAllocator(model, TOTAL, config=config)
        allocator._importance.update()
        (group,) = allocator._importance.groups
        scores.append(group.importance())
    return scores[0], scores[1]


def test_full_importance_adds_one_constant_to_each_matrix() -> None:
    model = pruned_model(init_weights=False)
    (model(rows()) - 1).square().mean().backward()
    reduced, full = reduced_and_full(model)
    assert reduced.shape == full.shape == (LAYERS, 4)
    difference = full - reduced
    torch.testing.assert_close(difference, difference[:, :1].expand(-1, 4), rtol=1e-3, atol=1e-12)
    assert (difference > 0).all()
    # Within a matrix the order is the same.
    assert torch.equal(reduced.argsort(-1), full.argsort(-1))


@pytest.mark.parametrize("importance", ["reduced", "full"])
def test_state_holds_only_what_the_importance_needs(importance: str) -> None:
    allocator = RankAllocator(pruned_model(importance=importance), TOTAL)
    scored = 4 + 2 * 3 * 4 + (2 * 6 * 3 if importance == "full" else 0)
    state = allocator.state_dict()
    averages = sum(t.numel() for key, t in state.items() if key.endswith(".average"))
    assert averages == LAYERS * scored


@pytest.mark.parametrize(
    "make", [lambda: LINEAR.config(init_r=4, target_r=2, tinit=0, tfinal=1)], ids=["linear"]
)
def test_matrices_of_different_shapes_share_one_budget(make: Callable[[], Lora2Config]) -> None:
    model = get_peft_model(LINEAR.model(), make())
    allocator = RankAllocator(model, 5)
    for _ in range(5):
        model.zero_grad()
        model(rows())[:, 0].mean().backward()
        allocator.step()
        assert allocator.kept == allocator.budget
    assert allocator.kept == 4


@pytest.mark.parametrize(
    "change", [compact_adapter, partial(truncate_adapter, rank=1)], ids=["compacted", "cut"]
)
@pytest.mark.parametrize("steps", [10, 18])
def test_an_adapter_made_smaller_between_steps_is_named(
    steps: int, change: Callable[[nn.Module], None]
) -> None:
    model = pruned_model(deltaT=1)
    allocator = RankAllocator(model, TOTAL)
    loop = Loop(model, allocator)
    for _ in loop.run(0, steps):
        pass
    change(model)
    with pytest.raises(UserError, match="has been cut or compacted since this RankAllocator"):
        for _ in Loop(model, allocator).run(steps, steps + 1):
            pass


def test_a_step_that_the_optimizer_left_out_is_not_scored() -> None:
    """float16's loss scaler leaves gradients with its scale behind."""
    model = pruned_model(tinit=0, deltaT=1)
    allocator = RankAllocator(model, TOTAL)
    loop = Loop(model, allocator)
    list(loop.run(0, 3))
    before = allocator.state_dict()
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad *= 65536
    allocator.step(skipped=True)
    after = allocator.state_dict()
    scores = [key for key in before if key.startswith("group")]
    assert scores
    assert all(torch.equal(before[key], after[key]) for key in scores)
    assert allocator.completed_steps == 4
    assert allocator.kept == allocator.budget


def test_state_of_a_float64_model_goes_on_bit_for_bit() -> None:
    kept = []
    for stops in (False, True):
        model = pruned_model().double()
        allocator = RankAllocator(model, TOTAL)
        for step in range(TOTAL):
            if stops and step == 7:
                state = allocator.state_dict()
                allocator = RankAllocator(model, TOTAL)
                allocator.load_state_dict(state)
            model.zero_grad()
            x = torch.randn(8, 6, generator=torch.Generator().manual_seed(step)).double()
            model(x).square().mean().backward()
            allocator.step()
        kept.append(allocator.state_dict())
    assert kept[0].keys() == kept[1].keys()
    for name, value in kept[0].items():
        assert torch.equal(value, kept[1][name])
        assert value.dtype == kept[1][name].dtype
