"""What AdaLoRA's users hit, and LoRA²'s do not: one test (or a few) for each of ten complaints.

The complaints, reproduced with PEFT 0.21.2's AdaLoRA, are the docstrings; the fuller tests of the
same behaviour are in test_allocator*.py, test_trainer_*.py and test_peft_contract_*.py.
"""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from lora2 import Lora2Callback, Lora2Config, RankAllocator, UserError, compact_adapter
from unit.models import LINEAR, adapter_state, disturb, layers_of, rows
from unit.operations import Operations
from unit.tiny_transformers import Examples, bert_batch, tiny_bert
from upstream import ADAPTERS_OF_TRANSFORMERS

pytestmark = pytest.mark.slow

PRUNING: dict[str, Any] = {"k": 2, "init_r": 3, "target_r": 1, "tinit": 2, "tfinal": 3}
TOTAL = 10


def bert_model(**fields: object) -> PeftModel:
    base = tiny_bert()
    torch.manual_seed(1)
    return get_peft_model(base, Lora2Config(**({"task_type": "SEQ_CLS"} | PRUNING | fields)))


def trainer_for(model: nn.Module, folder: Path, **options: Any) -> Trainer:
    arguments = TrainingArguments(
        str(folder), max_steps=TOTAL, per_device_train_batch_size=4, learning_rate=1e-2,
        **({"save_strategy": "no"} | options),
        report_to=[], use_cpu=True, disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    return Trainer(
        model, arguments,
        train_dataset=Examples(bert_batch(16)), eval_dataset=Examples(bert_batch(8, seed=1)),
        callbacks=[Lora2Callback()],
    )  # fmt: skip


def train(model: nn.Module, first: int, last: int, allocator: RankAllocator) -> None:
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for step in range(first, last):
        optimizer.zero_grad()
        model(**bert_batch(4, seed=step)).loss.backward()
        optimizer.step()
        allocator.step()


def kept(model: nn.Module) -> int:
    return sum(int((m.lora2_lambda["default"] != 0).sum()) for m in layers_of(model).values())


def test_1_the_trainer_prunes(tmp_path: Path) -> None:
    """AdaLoRA: nothing calls update_and_allocate; Trainer silently trains plain LoRA."""
    model = bert_model()
    trainer_for(model, tmp_path).train()
    assert kept(model) == 12


@ADAPTERS_OF_TRANSFORMERS
def test_1_the_trainer_prunes_what_transformers_added(tmp_path: Path) -> None:
    """AdaLoRA: with transformers' add_adapter the method is not even reachable."""
    model = tiny_bert()
    model.add_adapter(Lora2Config(**PRUNING))
    trainer_for(model, tmp_path).train()
    assert kept(model) == 12


def test_1_a_budget_that_nobody_prunes_to_is_reported() -> None:
    model = bert_model().train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model(**bert_batch()).loss.backward()
    optimizer.step()
    with pytest.warns(UserWarning, match="nothing prunes it: add Lora2Callback"):
        model(**bert_batch())


def test_2_the_plain_config_works_without_a_number_of_steps(tmp_path: Path) -> None:
    """AdaLoRA: the documentation's own snippet raises, since total_step is missing."""
    config = Lora2Config(target_r=2, task_type="SEQ_CLS")
    model = get_peft_model(tiny_bert(), config)
    trainer_for(model, tmp_path).train()
    assert kept(model) == 24
    # For AdaLoRA's loops the name is there, and says what it needs.
    with pytest.raises(UserError, match="total_step=None"):
        bert_model().base_model.update_and_allocate(0)


def adaloras_loop(model: nn.Module, first: int = 0, last: int = TOTAL) -> None:
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for step in range(first, last):
        model(**bert_batch(4, seed=step)).loss.backward()
        optimizer.step()
        model.base_model.update_and_allocate(step)
        optimizer.zero_grad()


def test_2_update_and_allocate_prunes_in_adaloras_loops() -> None:
    model = bert_model(total_step=TOTAL)
    adaloras_loop(model)
    assert kept(model) == 12


def test_2_an_adapter_made_anew_under_the_same_name_is_pruned_too() -> None:
    model = bert_model(total_step=TOTAL)
    adaloras_loop(model, last=1)
    config = model.peft_config["default"]
    model.add_adapter("other", config)
    model.set_adapter("other")
    model.delete_adapter("default")
    model.add_adapter("default", replace(config, init_r=4))
    model.set_adapter("default")
    adaloras_loop(model)
    assert kept(model) == 12


def test_2_a_second_training_has_a_schedule_of_its_own() -> None:
    model = bert_model(total_step=TOTAL)
    adaloras_loop(model)
    for layer in layers_of(model).values():
        torch.nn.init.ones_(layer.lora2_lambda["default"])
    adaloras_loop(model)
    assert kept(model) == 12


def test_2_update_and_allocate_refuses_to_go_on_with_what_it_has_not_seen() -> None:
    with pytest.raises(UserError, match="global_step=4: update_and_allocate has not seen"):
        adaloras_loop(bert_model(total_step=TOTAL), first=4)


def test_2_equal_ranks_prune_nothing_and_a_larger_target_is_refused_at_once(
    tmp_path: Path,
) -> None:
    """AdaLoRA: init_r <= target_r crashes in the middle of training."""
    model = bert_model(target_r=3)
    trainer_for(model, tmp_path).train()
    assert kept(model) == 36
    with pytest.raises(UserError, match="target_r=4 is above init_r=3"):
        Lora2Config(**(PRUNING | {"target_r": 4}))


def test_2_tfinal_is_a_duration_and_says_so() -> None:
    """AdaLoRA: tfinal is read as a point in time."""
    help_text = Lora2Config.__dataclass_fields__["tfinal"].metadata["help"]
    assert "a duration, not a point in time" in help_text
    allocator = RankAllocator(bert_model(), TOTAL)
    assert allocator.plan.last_change == TOTAL - 3
    # Read as a point in time it would often not fit, which is said before the training.
    with pytest.raises(UserError, match="leave none in which to prune"):
        RankAllocator(bert_model(tfinal=8), TOTAL)


def test_3_the_penalty_is_not_in_the_evaluation_loss(tmp_path: Path) -> None:
    """AdaLoRA: the term is in eval_loss too, even inside disable_adapter()."""
    model = bert_model(orthogonality="penalty", orth_reg_weight=100.0)
    batch = bert_batch(8, seed=1)
    trainer = trainer_for(model, tmp_path)
    with torch.no_grad():
        logits = model.eval()(**batch).logits
        expected = nn.functional.cross_entropy(logits, batch["labels"])
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected.item(), abs=1e-5)
    for training in (True, False):
        model.train(training)
        with model.disable_adapter():
            outputs = model(**batch)
        disabled = nn.functional.cross_entropy(outputs.logits, batch["labels"])
        torch.testing.assert_close(outputs.loss, disabled)


@pytest.mark.parametrize("steps", [3, 6, 9, 10])
def test_4_a_checkpoint_reloads_as_the_model_it_was(steps: int, tmp_path: Path) -> None:
    """AdaLoRA: saved while the budget shrinks with ΔT > 1, it reloads as a different model."""
    model = bert_model(deltaT=3)
    train(model, 0, steps, RankAllocator(model, TOTAL))
    model.save_pretrained(tmp_path)
    reloaded = PeftModel.from_pretrained(tiny_bert(), tmp_path)
    batch = bert_batch()
    with torch.no_grad():
        torch.testing.assert_close(
            reloaded.eval()(**batch).logits, model.eval()(**batch).logits, atol=1e-6, rtol=1e-6
        )


def test_5_resuming_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    """AdaLoRA: resumed in mid-schedule it prunes every rank to 0; later it raises."""
    whole = bert_model()
    trainer_for(whole, tmp_path, save_strategy="steps", save_steps=4).train()
    for steps in (4, 8):
        resumed = bert_model()
        checkpoint = str(tmp_path / f"checkpoint-{steps}")
        trainer_for(resumed, tmp_path / "resumed").train(resume_from_checkpoint=checkpoint)
        assert kept(resumed) == 12
        expected, actual = adapter_state(whole), adapter_state(resumed)
        assert all(torch.equal(actual[name], tensor) for name, tensor in expected.items())


def test_6_an_unused_parameter_is_no_error_and_zero_grad_is_a_clear_one() -> None:
    """AdaLoRA: either is a TypeError, 'Parameter' * 'NoneType'."""
    model = bert_model()
    allocator = RankAllocator(model, TOTAL)
    model(**bert_batch()).loss.backward()
    next(iter(layers_of(model).values())).lora2_u["default"].grad = None
    allocator.step()
    model.zero_grad()
    with pytest.raises(UserError, match="before zero_grad"):
        allocator.step()


def test_7_several_adapters_train_combine_convert_and_merge() -> None:
    """AdaLoRA: one trainable adapter at a time; no weighted sum; no conversion to LoRA."""
    model = get_peft_model(LINEAR.model(), LINEAR.config())
    model.add_adapter("other", LINEAR.config("k_above_r"))
    model.base_model.set_adapter(["default", "other"])
    assert {n.rsplit(".", 1)[1] for n, p in model.named_parameters() if p.requires_grad} == {
        "default",
        "other",
    }
    for name in ("default", "other"):
        disturb(model, name)
    expected = model.eval()(rows())
    model.add_weighted_adapter(["default", "other"], [1.0, 1.0], "sum")
    model.set_adapter("sum")
    torch.testing.assert_close(model(rows()), expected, atol=1e-5, rtol=1e-5)
    assert model.supports_lora_conversion("sum")
    torch.testing.assert_close(model.merge_and_unload()(rows()), expected, atol=1e-5, rtol=1e-5)


def test_8_parameters_shrink_and_the_config_stays_small(tmp_path: Path) -> None:
    """AdaLoRA: memory and counts never shrink; rank_pattern is a list of booleans per module."""
    model = bert_model(init_r=40, target_r=0.5, modules_to_save=[])
    before, _ = model.get_nb_trainable_parameters()
    train(model, 0, TOTAL, RankAllocator(model, TOTAL))
    model.save_pretrained(tmp_path)
    compact_adapter(model)
    after, _ = model.get_nb_trainable_parameters()
    kept = [len(layer.lora2_lambda["default"]) for layer in layers_of(model).values()]
    shapes = [layer.matrix_shape() for layer in layers_of(model).values()]
    # v, 𝒱, u, 𝒰 and λ: k is 2 before, and what is left of it after.
    sizes = [(sum(shape), r, min(r, 2)) for shape, r in zip(shapes, kept, strict=True)]
    assert before - after == sum(
        (2 * sides + (2 * 2 + 1) * 40) - (k * sides + (2 * k + 1) * r) for sides, r, k in sizes
    )
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    ranks = saved["rank_pattern"]
    assert all(type(rank) is int for rank in ranks.values())
    assert sum(ranks.values()) == 6
    assert len(json.dumps(ranks)) < 60 * len(layers_of(model))


class Stack(nn.Module):
    """Any number of equal layers."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x


def operations_of_a_step(depth: int, importance: str, step: int) -> Counter[str]:
    fields = PRUNING | {"target_modules": r"layers\.\d+", "importance": importance}
    model = get_peft_model(Stack(depth), Lora2Config(**fields))
    allocator = RankAllocator(model, TOTAL)
    model(torch.ones(2, 4)).sum().backward()
    for _ in range(step - 1):
        allocator.step()
    with Operations() as operations:
        allocator.step()
    return operations.counts


def computing(counts: Counter[str]) -> dict[str, int]:
    """Without what computes nothing: views, and questions about a dtype."""
    free = ("detach", "select", "unbind", "alias", "promote_types")
    return {op: n for op, n in counts.items() if op.split(".")[1] not in free}


@pytest.mark.parametrize("importance", ["reduced", "full"])
@pytest.mark.parametrize("step", [1, 4, 9], ids=["before", "in", "after"])
def test_9_an_allocation_takes_no_more_operations_for_more_layers(
    step: int, importance: str
) -> None:
    """AdaLoRA: Python loops over all parameters in every forward and every step."""
    few, many = (operations_of_a_step(depth, importance, step) for depth in (2, 9))
    assert computing(few) == computing(many)


def test_9_the_penalty_takes_no_more_operations_for_more_layers() -> None:
    from lora2.tuners.lora2.penalty import penalty_of_layers

    counts = []
    for depth in (2, 9):
        config = Lora2Config(target_modules=r"layers\.\d+", k=2, orthogonality="penalty")
        model = get_peft_model(Stack(depth), config)
        with Operations() as operations:
            penalty_of_layers(layers_of(model).values(), "default", config)
        counts.append(operations.counts)
    assert computing(counts[0]) == computing(counts[1])


def test_9_nothing_is_added_to_a_forward_pass_but_the_two_thin_products() -> None:
    """AdaLoRA: an `eye` and a penalty per matrix in every forward, in evaluation too."""
    model = bert_model(orthogonality="penalty").eval()
    with torch.no_grad(), Operations() as operations:
        model(**bert_batch())
    assert "aten.eye.default" not in operations.counts
    layer = next(iter(layers_of(model).values()))
    with torch.no_grad(), Operations() as operations:
        layer(torch.ones(3, 5, 8))
    products = sum(n for op, n in operations.counts.items() if "mm" in op)
    # Base, A and B; and the two k × k products that fold the core.
    assert products <= 5


class Named(nn.Module):
    """A base model whose own parameters have treacherous names."""

    def __init__(self) -> None:
        super().__init__()
        self.lora_A = nn.Linear(4, 4)
        self.lora2_lambda = nn.Linear(4, 4)
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.lora2_lambda(self.lora_A(x)))


def test_10_parameters_are_not_found_by_a_part_of_their_name(tmp_path: Path) -> None:
    """AdaLoRA: `"lora_A" in name`."""
    torch.manual_seed(0)
    base = Named()
    model = get_peft_model(base, Lora2Config(target_modules=["linear"], **PRUNING))
    allocator = RankAllocator(model, TOTAL)
    before = {n: p.detach().clone() for n, p in base.named_parameters() if "linear" not in n}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(TOTAL):
        optimizer.zero_grad()
        model(torch.ones(2, 4)).square().sum().backward()
        optimizer.step()
        allocator.step()
    assert list(allocator.kept_by_module()) == ["base_model.model.linear"]
    assert all(
        torch.equal(parameter, before[name])
        for name, parameter in base.named_parameters()
        if name in before and not name.startswith("lora2_")
    )
    model.save_pretrained(tmp_path)
    torch.manual_seed(0)
    reloaded = PeftModel.from_pretrained(Named(), tmp_path)
    x = torch.ones(2, 4)
    torch.testing.assert_close(reloaded(x), model(x))
