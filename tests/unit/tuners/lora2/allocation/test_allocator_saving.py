"""What reloads is what was in memory, at any step; a finished adapter is saved compact."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model

from lora2 import Lora2Config, RankAllocator, compact_adapter
from unit.models import adapter_state, layers_of, rows
from unit.pruning import FIELDS, LAYERS, TOTAL, Loop, base_model, pruned_model


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
    # Three values are left in all: no matrix kept more than its k of 3.
    assert shapes == [
        {"v": (r, 6), "u": (r, r), "lam": (r,), "U": (r, r), "V": (r, 6)} for r in kept
    ]
    size, full_size = (
        (tmp_path / name / "adapter_model.safetensors").stat().st_size
        for name in ("compact", "full")
    )
    # 4 bytes a number: v and 𝒱 of 6 × 3, u and 𝒰 of 3 × 40 and λ; in the end r in place of both.
    before = LAYERS * (2 * 6 * 3 + 2 * 3 * 40 + 40)
    after = sum(2 * 6 * r + 2 * r * r + r for r in kept)
    assert abs(full_size - size - 4 * (before - after)) < 200
    torch.testing.assert_close(reloaded(rows()), model(rows()), atol=1e-6, rtol=1e-6)
    # In memory, the model that was saved is as it was.
    assert {len(m.lora2_lambda["default"]) for m in layers_of(model).values()} == {40}


def test_compact_adapter_shrinks_memory_and_changes_nothing() -> None:
    model, allocator = finished_model()
    expected, x = model(rows()).detach(), rows()
    before = sum(p.numel() for p in model.parameters() if p.requires_grad)
    compact_adapter(model)
    after = sum(p.numel() for p in model.parameters() if p.requires_grad)
    kept = allocator.kept_by_module().values()
    assert before == LAYERS * (2 * 6 * 3 + 2 * 3 * 4 + 4)
    # A matrix that kept r < k = 3 values has k = r; of one that kept more, k stays.
    assert after == sum(2 * 6 * min(r, 3) + 2 * min(r, 3) * r + r for r in kept)
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
    # Nothing is left to prune, so that nobody is asked to add an allocator.
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
