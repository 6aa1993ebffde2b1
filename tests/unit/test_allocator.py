"""The allocator on models: budget, kept set, state, saving at any step, and its refusals."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load, save
from torch import Tensor, nn

from lora2 import Lora2Config, RankAllocator, UserError, compact_adapter
from unit.models import LINEAR, DeepMlp, adapter_state, layers_of, rows

TOTAL = 20
FIELDS = {
    "target_modules": ["lin0", "lin1"],
    "k": 3,
    "init_r": 4,
    "target_r": 1.5,
    "tinit": 4,
    "tfinal": 5,
    "deltaT": 3,
}
LAYERS = 6


def base_model() -> nn.Module:
    torch.manual_seed(0)
    return DeepMlp()


def pruned_model(**fields: object) -> PeftModel:
    base = base_model()
    torch.manual_seed(1)
    return get_peft_model(base, Lora2Config(**(FIELDS | fields)))


class Loop:
    """A training loop that can stop anywhere; every step has another batch."""

    def __init__(self, model: nn.Module, allocator: RankAllocator | None, lr: float = 0.02) -> None:
        self.model, self.allocator = model, allocator
        parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(parameters, lr=lr)

    def run(self, first: int, last: int) -> Iterator[int]:
        for step in range(first, last):
            generator = torch.Generator().manual_seed(step)
            x = torch.randn(8, 6, generator=generator)
            loss = (self.model(x) - x.flip(1)).square().mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            if self.allocator is not None:
                self.allocator.step()
            yield step + 1


def kept_values(model: nn.Module) -> dict[str, list[bool]]:
    return {name: (m.lora2_lambda["default"] != 0).tolist() for name, m in layers_of(model).items()}


def count(kept: dict[str, list[bool]]) -> int:
    return sum(sum(values) for values in kept.values())


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


@pytest.mark.parametrize("interval", [1, 3])
@pytest.mark.parametrize("orthogonality", ["exact", "penalty"])
def test_reloaded_equals_memory_at_any_step(
    interval: int, orthogonality: str, tmp_path: Path
) -> None:
    model = pruned_model(deltaT=interval, orthogonality=orthogonality)
    x = rows()
    for step in Loop(model, RankAllocator(model, TOTAL)).run(0, TOTAL):
        # Before, in and after budgeting, at and between allocations; at 20 it is compact.
        if step not in (1, 4, 5, 7, 8, 15, 17, 20):
            continue
        folder = tmp_path / str(step)
        model.save_pretrained(folder)
        reloaded = PeftModel.from_pretrained(base_model(), folder)
        torch.testing.assert_close(reloaded(x), model(x), atol=1e-6, rtol=1e-6)
        if step < TOTAL:
            # Nothing is left out of the file yet, so even the last bit is the same.
            assert torch.equal(reloaded(x), model(x))


def finished_model(**fields: object) -> tuple[PeftModel, RankAllocator]:
    model = pruned_model(**fields)
    allocator = RankAllocator(model, TOTAL)
    list(Loop(model, allocator).run(0, TOTAL))
    return model, allocator


def test_finished_adapter_is_saved_compact(tmp_path: Path) -> None:
    # Zeros at the end, as a matrix of no use to the task would have them.
    model, allocator = finished_model(target_r=0.5, init_r=40)
    kept = list(allocator.kept_by_module().values())
    assert sum(kept) == 3
    assert 0 in kept
    model.save_pretrained(tmp_path / "compact")
    full, _ = finished_model(target_r=None, init_r=40)
    full.save_pretrained(tmp_path / "full")
    reloaded = PeftModel.from_pretrained(base_model(), tmp_path / "compact")
    shapes = [
        {symbol: tuple(p.shape) for symbol, p in layer.parameters_of("default").items()}
        for layer in layers_of(reloaded).values()
    ]
    assert shapes == [
        {"v": (6, 3), "u": (3, r), "lam": (r,), "U": (r, 3), "V": (3, 6)} for r in kept
    ]
    size, full_size = (
        (tmp_path / name / "adapter_model.safetensors").stat().st_size
        for name in ("compact", "full")
    )
    # λ, a column of u and a row of 𝒰 of each pruned value, 4 bytes a number.
    pruned_bytes = (6 * 40 - 3) * (1 + 3 + 3) * 4
    assert abs(full_size - size - pruned_bytes) < 200
    torch.testing.assert_close(reloaded(rows()), model(rows()), atol=1e-6, rtol=1e-6)
    # In memory, the model that was saved is as it was.
    assert {len(m.lora2_lambda["default"]) for m in layers_of(model).values()} == {40}


def test_compact_adapter_shrinks_memory_and_changes_nothing() -> None:
    model, allocator = finished_model()
    expected, x = model(rows()).detach(), rows()
    before = sum(p.numel() for p in model.parameters() if p.requires_grad)
    compact_adapter(model)
    after = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert before - after == (LAYERS * 4 - allocator.kept) * (1 + 3 + 3)
    torch.testing.assert_close(model(x), expected, atol=1e-6, rtol=1e-6)
    ranks = {name: len(m.lora2_lambda["default"]) for name, m in layers_of(model).items()}
    assert ranks == allocator.kept_by_module()


def test_compact_adapter_trains_on_with_another_rank_in_each_module(tmp_path: Path) -> None:
    model, allocator = finished_model(target_r=0.5)
    ranks = list(allocator.kept_by_module().values())
    assert len(set(ranks)) > 1
    assert 0 in ranks
    model.save_pretrained(tmp_path)
    reloaded = PeftModel.from_pretrained(base_model(), tmp_path, is_trainable=True)
    before = adapter_state(reloaded)
    # Nothing is left to prune, so that nobody is told to add an allocator.
    list(Loop(reloaded.train(), None).run(0, 3))
    after = adapter_state(reloaded)
    assert all(
        not torch.equal(tensor, before[name])
        for name, tensor in after.items()
        if name.endswith(".lam") and tensor.numel()
    )
    # A second schedule starts from what the first one left.
    again = RankAllocator(reloaded, TOTAL)
    assert again.kept == again.budget == 3
    list(Loop(reloaded, again).run(0, TOTAL))
    assert again.kept == 3


def test_resumable_allocator_saves_pruned_values_too(tmp_path: Path) -> None:
    model = pruned_model()
    list(Loop(model, RankAllocator(model, TOTAL, resumable=True)).run(0, TOTAL))
    model.save_pretrained(tmp_path)
    reloaded = PeftModel.from_pretrained(base_model(), tmp_path)
    assert {len(m.lora2_lambda["default"]) for m in layers_of(reloaded).values()} == {4}
    assert torch.equal(reloaded(rows()), model(rows()))


def test_a_second_schedule_of_a_finished_adapter_saves_everything_again(tmp_path: Path) -> None:
    model, _ = finished_model()
    RankAllocator(model, TOTAL)
    model.save_pretrained(tmp_path)
    reloaded = PeftModel.from_pretrained(base_model(), tmp_path)
    assert {len(m.lora2_lambda["default"]) for m in layers_of(reloaded).values()} == {4}


def test_config_can_be_used_again_after_its_adapter_was_saved_compact(tmp_path: Path) -> None:
    config = Lora2Config(**FIELDS)
    model = get_peft_model(base_model(), config)
    list(Loop(model, RankAllocator(model, TOTAL)).run(0, TOTAL))
    model.save_pretrained(tmp_path)
    second = get_peft_model(base_model(), config)
    assert {len(m.lora2_lambda["default"]) for m in layers_of(second).values()} == {4}


# Refusals


@pytest.mark.parametrize(
    ("fields", "total", "sentence"),
    [
        ({"tinit": 10, "tfinal": 10}, 20, r"tinit=10 and tfinal=10 take 10 \+ 10 of the 20"),
        ({"tinit": 0.6, "tfinal": 5}, 10, r"tinit=0.6 and tfinal=5 take 6 \+ 5 of the 10"),
        ({"tinit": 100}, 20, "make them smaller, or train longer"),
    ],
)
def test_schedule_that_does_not_fit_is_refused(fields: dict, total: int, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        RankAllocator(pruned_model(**fields), total)


def test_schedule_does_not_matter_where_nothing_is_pruned() -> None:
    allocator = RankAllocator(pruned_model(target_r=None, tinit=100), TOTAL)
    assert allocator.budget == allocator.kept == LAYERS * 4


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"target_r": 5}, "target_r=5 is above init_r=4"),
        ({"target_r": 0}, "target_r=0 would leave nothing"),
        ({"k": 0}, "k=0 must be a whole number of at least 1"),
        ({"init_r": 0}, "init_r=0 must be a whole number of at least 1"),
        ({"init_r": 2.5}, "init_r=2.5 must be a whole number"),
        ({"deltaT": 0}, "deltaT=0 would never allocate"),
        ({"tinit": -1}, "tinit=-1 is neither a number of steps nor a fraction"),
        ({"tfinal": 1.5}, "tfinal=1.5 is neither a number of steps nor a fraction"),
        ({"tinit": 0.5, "tfinal": 0.5}, "their sum must be below 1"),
        ({"beta1": 1.0}, r"beta1=1.0 must lie in \[0, 1\)"),
        ({"importance": "best"}, "importance='best' is not known: choose one of 'reduced', 'full'"),
        ({"k_pattern": {"lin0": 0}}, r"k_pattern\['lin0'\]=0"),
    ],
)
def test_config_that_cannot_be_meant_is_refused(fields: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Lora2Config(**(FIELDS | fields))


def test_model_without_the_adapter_is_refused() -> None:
    with pytest.raises(UserError, match="no LoRA² adapter of that name"):
        RankAllocator(pruned_model(), TOTAL, "other")
    with pytest.raises(UserError, match="no LoRA² adapter of that name"):
        RankAllocator(nn.Linear(2, 2), TOTAL)


def test_step_after_zero_grad_is_refused() -> None:
    model = pruned_model()
    allocator = RankAllocator(model, TOTAL)
    list(Loop(model, allocator).run(0, 2))
    model.zero_grad()
    with pytest.raises(UserError, match=r"after optimizer.step\(\) and before zero_grad"):
        allocator.step()
    # The refused call has left no trace.
    assert allocator.completed_steps == 2


def test_state_of_another_adapter_is_refused() -> None:
    state = RankAllocator(pruned_model(init_r=3), TOTAL).state_dict()
    with pytest.raises(UserError, match="of other sizes"):
        RankAllocator(pruned_model(), TOTAL).load_state_dict(state)


def test_layers_without_a_gradient_are_no_error() -> None:
    model = pruned_model(tinit=0, deltaT=1)
    allocator = RankAllocator(model, TOTAL)
    used = layers_of(model)["base_model.model.body.layers.0.lin0"]
    for _ in range(TOTAL):
        model.zero_grad()
        used(rows()).square().mean().backward()
        allocator.step()
        assert allocator.kept == allocator.budget
    # What was never used is not important.
    kept = allocator.kept_by_module()
    assert kept["base_model.model.body.layers.0.lin0"] == 4


# Importance


def reduced_and_full(model: nn.Module) -> tuple[Tensor, Tensor]:
    scores = []
    for importance in ("reduced", "full"):
        config = Lora2Config(**(FIELDS | {"importance": importance}))
        allocator = RankAllocator(model, TOTAL, config=config)
        allocator._score()
        (group,) = allocator._groups
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
