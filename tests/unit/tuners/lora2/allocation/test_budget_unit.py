"""A budget that counts parameters: what is kept costs no more than it, at every step."""

import copy

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn

from lora2 import Lora2Config, RankAllocator, compact_adapter
from lora2.errors import UserError
from lora2.training.budgets import budget_in_words
from lora2.tuners.lora2.allocation.budget import plan_budget
from lora2.tuners.lora2.allocation.final_sizes import final_sizes
from lora2.tuners.lora2.matrix_size import MatrixSize
from unit.models import layers_of
from unit.pruning import FIELDS, TOTAL, Loop, kept_values, pruned_model

IN_PARAMETERS = {"budget_unit": "parameters", "k": 4}


class Uneven(nn.Module):
    """Two matrices that cost 12 parameters a value, and two that cost 26."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {"lin0": nn.Linear(6, 6), "up": nn.Linear(6, 20), "lin1": nn.Linear(20, 6)}
            )
            for _ in range(2)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer["lin0"](x)
            x = x + layer["lin1"](torch.tanh(layer["up"](x)))
        return x


def uneven_model(**fields: object) -> PeftModel:
    torch.manual_seed(0)
    return get_peft_model(Uneven(), Lora2Config(**(FIELDS | IN_PARAMETERS | fields)))


def cost_of(model: torch.nn.Module) -> int:
    layers = layers_of(model)
    kept = kept_values(model)
    return sum(sum(layers[name].matrix_shape()) * sum(values) for name, values in kept.items())


@pytest.mark.parametrize("interval", [1, 3])
def test_no_more_than_the_budget_is_spent_and_no_value_more_would_fit(interval: int) -> None:
    model = uneven_model(deltaT=interval)
    allocator = RankAllocator(model, TOTAL)
    costs = [sum(layer.matrix_shape()) for layer in layers_of(model).values()]
    assert allocator.budget == allocator.spent == 4 * sum(costs)
    assert len(set(costs)) > 1
    for _ in Loop(model, allocator).run(0, TOTAL):
        assert allocator.budget - max(costs) < allocator.spent <= allocator.budget
        assert allocator.spent == cost_of(model)
    assert allocator.budget == round(1.5 * sum(costs))


def test_the_finished_adapter_has_the_size_of_a_lora_of_that_rank() -> None:
    model = uneven_model(target_r=1)
    allocator = RankAllocator(model, TOTAL)
    list(Loop(model, allocator).run(0, TOTAL))
    compact_adapter(model)
    lora = sum(sum(layer.matrix_shape()) for layer in layers_of(model).values())
    # What the inner factors have, u and 𝒰 [k, r] and λ [r], comes on top.
    inner = sum(2 * kept**2 + kept for kept in allocator.kept_by_module().values())
    own = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert own <= lora + inner


def test_equal_matrices_keep_the_same_set_in_either_unit() -> None:
    kept = []
    for unit in ("values", "parameters"):
        # Budgets between the first and the last would be rounded to whole values in one of them.
        model = pruned_model(k=4, budget_unit=unit, budget_schedule="constant", deltaT=1)
        assert len({layer.matrix_shape() for layer in layers_of(model).values()}) == 1
        list(Loop(model, RankAllocator(model, TOTAL)).run(0, TOTAL))
        kept.append(kept_values(model))
    assert kept[0] == kept[1]


@pytest.mark.parametrize("stop", [5, 7, 12, 16])
def test_a_resumed_budget_in_parameters_keeps_the_same_set(stop: int) -> None:
    def whole() -> tuple[torch.nn.Module, RankAllocator, Loop]:
        model = uneven_model()
        allocator = RankAllocator(model, TOTAL)
        return model, allocator, Loop(model, allocator)

    model, _, loop = whole()
    list(loop.run(0, TOTAL))
    again, allocator, loop = whole()
    list(loop.run(0, stop))
    resumed = RankAllocator(again, TOTAL)
    resumed.load_state_dict(copy.deepcopy(allocator.state_dict()))
    loop.allocator = resumed
    list(loop.run(stop, TOTAL))
    assert kept_values(again) == kept_values(model)


def test_the_schedule_names_its_unit() -> None:
    model = pruned_model(**IN_PARAMETERS)
    whole = sum(sum(layer.matrix_shape()) for layer in layers_of(model).values())
    words = budget_in_words(model, TOTAL)
    assert words.startswith(f"{4 * whole:,} → {round(1.5 * whole):,} parameters (cubic)")
    assert "singular values" in budget_in_words(pruned_model(), TOTAL)


def test_messages_count_in_the_unit() -> None:
    model = pruned_model(**IN_PARAMETERS)
    allocator = RankAllocator(model, TOTAL)
    list(Loop(model, allocator).run(0, 6))
    shorter = RankAllocator(pruned_model(**IN_PARAMETERS, tinit=1, tfinal=1, deltaT=1), 6)
    with pytest.raises(UserError, match="parameters, so no step is left"):
        shorter.load_state_dict(allocator.state_dict())


def test_at_least_one_value_of_the_cheapest_matrix_is_kept() -> None:
    config = Lora2Config(**(FIELDS | IN_PARAMETERS | {"target_r": 0.001}))
    assert plan_budget(config, [MatrixSize(10, 4, 4), MatrixSize(6, 4, 4)], TOTAL).target == 6


class WithNarrow(nn.Module):
    """Matrices of rank two at most, and wide ones; the narrow ones count by `share`."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.narrow = nn.ModuleList(nn.Linear(24, 2) for _ in range(3))
        self.wide = nn.ModuleList(nn.Linear(24, 24) for _ in range(3))
        self.share = share

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = sum(layer(x).square().mean() for layer in self.wide)
        return wide + self.share * sum(layer(x).square().mean() for layer in self.narrow)


@pytest.mark.parametrize("share", [0.05, 0.1, 0.3, 1.0, 10.0])
@pytest.mark.parametrize("rank", [0.5, 1, 2, 4, 6])
def test_narrow_matrices_are_counted_with_the_rank_that_they_can_have(
    rank: float, share: float
) -> None:
    torch.manual_seed(0)
    config = Lora2Config(
        k=8, target_r=rank, budget_unit="parameters", deltaT=1,
        target_modules=r".*(narrow|wide)\.\d",
    )  # fmt: skip
    model = get_peft_model(WithNarrow(share), config)
    allocator = RankAllocator(model, 12)
    whole = 3 * 2 * (24 + 2) + 3 * 8 * (24 + 24)
    target = round(min(rank, 2) * 3 * (24 + 2) + rank * 3 * (24 + 24))
    assert (allocator.plan.initial, allocator.plan.target) == (whole, target)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(12):
        model(torch.randn(16, 24, generator=torch.Generator().manual_seed(step))).backward()
        optimizer.step()
        allocator.step()
        optimizer.zero_grad()
        kept = allocator.kept_by_module()
        spent = {
            name: min(kept[name], *layer.matrix_shape()) * sum(layer.matrix_shape())
            for name, layer in layers_of(model).items()
        }
        assert allocator.spent == sum(spent.values()) <= allocator.budget
        # What adds nothing to the size is kept.
        assert all(kept[name] in (0, 1, 8) for name in kept if "narrow" in name)


def test_a_budget_in_parameters_needs_a_value_for_each_rank() -> None:
    with pytest.raises(UserError, match="needs a k of at least init_r=8, and k is 1"):
        Lora2Config(k=1, budget_unit="parameters")


def test_an_unknown_unit_is_one_sentence() -> None:
    with pytest.raises(UserError, match="budget_unit='bytes' is not known: choose one of 'values'"):
        Lora2Config(budget_unit="bytes")


@pytest.mark.parametrize("unit", ["values", "parameters"])
def test_a_matrix_of_rank_0_is_not_the_one_value_that_is_left(unit: str) -> None:
    """It is the cheapest matrix, and has no value that could be left."""
    model = uneven_model(budget_unit=unit, target_r=0.01, rank_pattern={"lin0": 0})
    allocator = RankAllocator(model, TOTAL)
    list(Loop(model, allocator).run(0, TOTAL))
    assert allocator.kept == 1
    RankAllocator(model, TOTAL).load_state_dict(allocator.state_dict())


@pytest.mark.parametrize("unit", ["values", "parameters"])
def test_nothing_is_left_where_no_matrix_has_a_value(unit: str) -> None:
    config = Lora2Config(k=4, init_r=4, target_r=1, budget_unit=unit)
    empty = [MatrixSize(cost=12, k=0, r=0)]
    assert config.initial_budget(empty) == config.target_budget(empty) == 0
    assert final_sizes(config, empty) == (0, 0)
