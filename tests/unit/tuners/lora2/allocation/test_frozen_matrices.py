"""Matrices that are frozen keep what they have, and no more than that is counted."""

import pytest
import torch

from lora2 import RankAllocator, UserError
from lora2.tuners.lora2.layer import Lora2Layer
from unit.models import layers_of, prune_half
from unit.pruning import TOTAL, Loop, count, kept_values, pruned_model


def freeze(layer: Lora2Layer) -> None:
    for parameter in layer.parameters_of("default").values():
        parameter.requires_grad_(False)


def kept_by_matrix(allocator: RankAllocator) -> dict[str, int]:
    return {name: kept for name, kept in allocator.kept_by_module().items() if kept}


def not_zero(model: torch.nn.Module) -> dict[str, int]:
    return {name: sum(kept) for name, kept in kept_values(model).items() if any(kept)}


def test_frozen_matrices_stay_as_they_are() -> None:
    model = pruned_model(init_weights=False)
    first, layer = next(iter(layers_of(model).items()))
    freeze(layer)
    before = layer.get_delta_weight("default")
    allocator = RankAllocator(model, TOTAL)
    list(Loop(model, allocator).run(0, TOTAL))
    assert torch.equal(layer.get_delta_weight("default"), before)
    assert allocator.kept_by_module()[first] == 4
    assert allocator.kept == allocator.budget == 9


def test_frozen_matrices_that_change_nothing_are_pruned_first() -> None:
    model = pruned_model()
    frozen = list(layers_of(model).items())[:3]
    for _, layer in frozen:
        freeze(layer)
    allocator = RankAllocator(model, TOTAL)
    list(Loop(model, allocator).run(0, TOTAL))
    assert allocator.kept == 9
    assert not any(allocator.kept_by_module()[name] for name, _ in frozen)


def test_frozen_matrices_that_are_the_whole_target_are_named() -> None:
    model = pruned_model(init_weights=False)
    for layer in list(layers_of(model).values())[:3]:
        layer.parameters_of("default")["lam"].requires_grad_(False)
    allocator = RankAllocator(model, TOTAL)
    with pytest.raises(UserError, match=r"frozen, such as .*, have 12 singular values, and 9 are"):
        list(Loop(model, allocator).run(0, TOTAL))


@pytest.mark.parametrize(
    "fields",
    [
        {"k": 4},
        {"k": 4, "budget_unit": "parameters"},
        {"k": 4, "target_r": 0.5},
        # Two of the four values of a matrix have a cost.
        {"k": 4, "budget_unit": "parameters", "k_pattern": {"lin1": 2}},
    ],
    ids=str,
)
def test_values_pruned_before_their_matrix_was_frozen_do_not_count(fields: dict) -> None:
    model = pruned_model(init_weights=False, deltaT=1, **fields)
    allocator = RankAllocator(model, TOTAL)
    list(Loop(model, allocator).run(0, 12))
    left = not_zero(model)
    name = min(left, key=left.__getitem__)
    assert left[name] < 4
    freeze(layers_of(model)[name])
    list(Loop(model, allocator).run(12, TOTAL))
    assert kept_by_matrix(allocator) == not_zero(model)
    assert allocator.kept_by_module()[name] == left[name]
    assert allocator.kept == count(kept_values(model))
    if "budget_unit" not in fields:
        assert allocator.kept == allocator.budget


def test_a_target_that_frozen_matrices_leave_out_of_reach_is_no_fault_of_a_finished_state() -> None:
    model = pruned_model(init_weights=False, target_r=3.5)
    prune_half(model)
    for layer in list(layers_of(model).values())[:3]:
        freeze(layer)
    allocator = RankAllocator(model, TOTAL)
    list(Loop(model, allocator).run(0, TOTAL))
    assert allocator.kept == 3 * 2 + 3 * 4 < allocator.budget
    assert kept_by_matrix(allocator) == not_zero(model)
    again = RankAllocator(model, TOTAL)
    again.load_state_dict(allocator.state_dict())
    assert again.finished
    assert again.kept == allocator.kept
