"""What the allocator and its config refuse, and what they let pass."""

import copy
import sys
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from accelerate import Accelerator
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from torch import nn

from lora2 import Lora2Config, RankAllocator, UserError
from unit.models import adapter_state, layers_of, rows
from unit.pruning import FIELDS, LAYERS, TOTAL, Loop, pruned_model


@pytest.mark.parametrize(
    ("fields", "total", "sentence"),
    [
        ({"tinit": 10, "tfinal": 10}, 20, r"tinit=10 and tfinal=10 take 10 \+ 10 of the 20"),
        ({"tinit": 0.6, "tfinal": 5}, 10, r"tinit=0.6 and tfinal=5 take 6 \+ 5 of the 10"),
        ({}, 0, "total_steps=0 leaves no step in which to prune: write the optimizer steps"),
        ({"tinit": 0, "tfinal": 0}, 0, "total_steps=0 leaves no step in which to prune"),
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
        ({"beta1": 1.0}, r"beta1=1.0 must be in \[0, 1\)"),
        ({"importance": "best"}, "importance='best' is not known: choose one of 'reduced', 'full'"),
        ({"k_pattern": {"lin0": 0}}, r"k_pattern\['lin0'\]=0"),
        ({"tinit": float("inf")}, "tinit=inf must be a finite number"),
        ({"target_r": float("nan")}, "target_r=nan must be a finite number"),
        ({"lora_alpha": float("nan")}, "lora_alpha=nan must be a finite number"),
        ({"init_weights": 1}, "init_weights=1 is not known"),
    ],
)
def test_config_that_is_invalid_is_refused(fields: dict, sentence: str) -> None:
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


@pytest.mark.filterwarnings("ignore:Adapter 'default' does nothing in 5 of its 6:UserWarning")
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


@pytest.mark.parametrize("mark", ["ds_id", "_hp_mapping"])
def test_allocator_that_was_made_before_deepspeed_took_over_is_refused(
    mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, unpruned = pruned_model(), pruned_model(target_r=None)
    before, nothing_to_prune = RankAllocator(model, TOTAL), RankAllocator(unpruned, TOTAL)
    monkeypatch.setitem(sys.modules, "deepspeed", ModuleType("deepspeed"))
    for each in (model, unpruned):
        for parameter in each.parameters():
            setattr(parameter, mark, 0)
    with pytest.raises(UserError, match="was made before DeepSpeed took the model over"):
        before.step()
    nothing_to_prune.step()


def test_flattened_factors_are_refused() -> None:
    model = pruned_model()
    allocator = RankAllocator(model, TOTAL)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.flatten()[:0]
            parameter.grad = torch.zeros(0)
    with pytest.raises(UserError, match="this engine flattens parameters"):
        allocator.step()


def test_a_deleted_adapter_is_named() -> None:
    model = pruned_model()
    model.add_adapter("other", model.peft_config["default"])
    allocator = RankAllocator(model, TOTAL, "other")
    model.delete_adapter("other")
    with pytest.raises(UserError, match="Adapter 'other' has been deleted since"):
        allocator.step()


def test_an_allocator_does_not_prune_another_adapter_of_its_name() -> None:
    model = pruned_model(tinit=0, tfinal=0)
    # An adapter must stay where another is deleted.
    model.add_adapter("stays", model.peft_config["default"])
    allocator = RankAllocator(model, TOTAL)
    list(Loop(model, allocator).run(0, 2))
    state = allocator.state_dict()
    copied = copy.deepcopy((model, allocator))
    config = model.peft_config["default"]
    model.set_adapter("stays")
    model.delete_adapter("default")
    model.add_adapter("default", config)
    model.set_adapter("default")
    before = adapter_state(model)
    calls: list[Callable[[], None]] = [
        allocator.step,
        allocator.read_kept,
        allocator.mark_finished,
        lambda: allocator.load_state_dict(state),
    ]
    for call in calls:
        with pytest.raises(UserError, match=r"deleted since this RankAllocator .* its name; make"):
            call()
    after = adapter_state(model)
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    list(Loop(*copied).run(2, TOTAL))
    assert copied[1].finished


def test_an_allocator_knows_an_adapter_that_was_loaded_and_switched() -> None:
    model = pruned_model()
    model.add_adapter("other", model.peft_config["default"])
    allocator = RankAllocator(model, TOTAL)
    weights = get_peft_model_state_dict(model)
    list(Loop(model, allocator).run(0, 2))
    model.set_adapter("other")
    model.set_adapter("default")
    set_peft_model_state_dict(model, weights)
    list(Loop(model, allocator).run(2, TOTAL))
    assert allocator.finished


@pytest.mark.parametrize("fused", [False, True])
def test_an_optimizer_that_steps_at_a_micro_batch_is_noticed(fused: bool) -> None:
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=4)
    model = pruned_model()
    trained = [p for p in model.parameters() if p.requires_grad]
    # It is not prepared, so that it steps in every micro-batch.
    optimizer = torch.optim.AdamW(trained, lr=0.01, fused=fused)
    allocator = RankAllocator(model, TOTAL)

    def run() -> None:
        for _ in range(4):
            with accelerator.accumulate(model):
                model(rows()).square().mean().backward()
                optimizer.step()
                allocator.step()
                optimizer.zero_grad()

    try:
        with pytest.raises(UserError, match="the optimizer has stepped all the same"):
            run()
    finally:
        accelerator.gradient_state._set_sync_gradients(True)
