"""SoRA against a literal oracle, and through a whole life: training, pruning, saving, merging."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, convert_to_lora, get_peft_model
from peft.utils import set_peft_model_state_dict
from torch import Tensor, nn
from transformers import Trainer

from lora2 import SoraCallback, SoraConfig, UserError
from lora2.sora import GateThreshold, prune_gates
from lora2.sora.gates import gated_layers
from lora2.sora.layer import SoraLayer
from oracle import assert_agrees, product, transpose
from unit.models import (
    CONV1D,
    CONV2D,
    EMBEDDING,
    LINEAR,
    Examples,
    Kind,
    bert_batch,
    rows,
    sgd_steps,
    tiny_bert,
)
from unit.training import TOTAL, arguments

FORMS = (LINEAR, Kind("linear_without_bias", LINEAR.make, rows, ["lin0"]), CONV1D)
every_kind = pytest.mark.parametrize("kind", FORMS, ids=lambda kind: kind.name)


def config(kind: Kind = LINEAR, **fields: Any) -> SoraConfig:
    defaults = {"target_modules": kind.target_modules, "r": 4, "lora_alpha": 6.0}
    return SoraConfig(**(defaults | fields))


def adapted(kind: Kind = LINEAR, **fields: Any) -> PeftModel:
    """A model whose adapter changes it."""
    torch.manual_seed(1)
    return get_peft_model(kind.model(), config(kind, init_weights=False, **fields)).eval()


def layers(model: nn.Module, adapter_name: str = "default") -> list[SoraLayer]:
    return list(gated_layers(model, adapter_name).values())


@torch.no_grad()
def close(model: nn.Module, kept: list[list[int]], adapter_name: str = "default") -> None:
    """Set all gates to zero but those of these indices, layer by layer."""
    for layer, indices in zip(layers(model, adapter_name), kept, strict=True):
        gate = layer.sora_gate[adapter_name]
        mask = torch.zeros_like(gate)
        mask[indices] = 1
        gate.mul_(mask)


def deltas(model: nn.Module, adapter_name: str = "default") -> list[Tensor]:
    return [layer.get_delta_weight(adapter_name).detach() for layer in layers(model, adapter_name)]


# The layer


def literal_delta(A: Tensor, g: Tensor, B: Tensor, scaling: float) -> Tensor:
    """The sum over ranks i of scaling · g[i] · B[:, i] A[i, :], as [d_out, d_in]."""
    total = torch.zeros(B.shape[0], A.shape[1], dtype=torch.float64)
    for i in range(len(g)):
        total = total + scaling * g[i] * product(B[:, i : i + 1], A[i : i + 1, :])
    return total


@pytest.mark.parametrize("kind", [LINEAR, CONV1D], ids=lambda kind: kind.name)
def test_output_and_gradients_are_those_of_the_formula(kind: Kind) -> None:
    model = adapted(kind).double()
    layer = layers(model)[0]
    d_out, d_in = layer.matrix_shape()
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(3, d_in, generator=generator, dtype=torch.float64, requires_grad=True)
    towards = torch.randn(3, d_out, generator=generator, dtype=torch.float64)
    held = [layer.sora_A["default"], layer.sora_gate["default"], layer.sora_B["default"]]
    output = layer(x)
    A, g, B = (tensor.detach().clone().requires_grad_() for tensor in held)
    x_again = x.detach().clone().requires_grad_()
    delta = literal_delta(A, g, B, scaling=6.0 / 4)
    expected = layer.get_base_layer()(x_again) + product(x_again, transpose(delta))
    assert_agrees(output, expected)
    found = torch.autograd.grad((output * towards).sum(), [x, *held])
    wanted = torch.autograd.grad((expected * towards).sum(), [x_again, A, g, B])
    for one, other in zip(found, wanted, strict=True):
        assert_agrees(one, other)


def test_the_scaling_is_that_of_the_first_rank_whatever_is_left_of_it() -> None:
    model = adapted(rank_pattern={"lin0": 2})
    assert [len(layer.sora_gate["default"]) for layer in layers(model)] == [2, 4]
    assert {layer.sora_scaling["default"] for layer in layers(model)} == {6.0 / 4}


@every_kind
def test_start_is_the_identity_and_gates_are_drawn(kind: Kind) -> None:
    base, x = kind.model(), kind.inputs()
    expected = base(x)
    torch.manual_seed(0)
    model = get_peft_model(base, config(kind, r=32)).eval()
    assert torch.equal(model(x), expected)
    gates = torch.cat([layer.sora_gate["default"] for layer in layers(model)])
    assert gates.mean().abs() < 0.5
    assert 0.6 < gates.std() < 1.4


@every_kind
def test_init_weights_false_is_not_the_identity(kind: Kind) -> None:
    assert not torch.allclose(adapted(kind)(kind.inputs()), kind.model()(kind.inputs()), atol=1e-4)


@every_kind
def test_only_adapter_parameters_are_updated(kind: Kind) -> None:
    model = adapted(kind)
    before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    sgd_steps(model, kind.inputs(), lr=0.1)
    for name, tensor in model.named_parameters():
        assert torch.equal(tensor, before[name]) != ("sora_" in name), name
        assert tensor.requires_grad == ("sora_" in name), name


def test_inputs_of_the_adapter_are_dropped_in_training_only() -> None:
    model = adapted(lora_dropout=0.9)
    assert torch.equal(model(rows()), model(rows()))
    model.train()
    assert not torch.equal(model(rows()), model(rows()))


def test_half_precision_base_keeps_its_dtype() -> None:
    torch.manual_seed(1)
    model = get_peft_model(LINEAR.model().bfloat16(), config(init_weights=False)).eval()
    assert model(rows().bfloat16()).dtype == torch.bfloat16
    assert layers(model)[0].sora_A["default"].dtype == torch.float32


@pytest.mark.parametrize("kind", [EMBEDDING, CONV2D], ids=lambda kind: kind.name)
def test_other_kinds_of_layers_are_refused(kind: Kind) -> None:
    with pytest.raises(UserError, match=r"cannot be adapted: name modules of type Linear, Conv1D"):
        get_peft_model(kind.model(), config(kind))


# Gates


@pytest.mark.parametrize("optimizer_class", [torch.optim.SGD, torch.optim.AdamW])
def test_gates_are_thresholded_behind_the_optimizer(optimizer_class: Callable[..., Any]) -> None:
    model = adapted(threshold=0.2)
    optimizer = optimizer_class([p for p in model.parameters() if p.requires_grad], lr=0.1)
    thresholds = GateThreshold(model, total_steps=3)
    for _ in range(3):
        model(rows()).square().mean().backward()
        optimizer.step()
        others = [layer.sora_A["default"].detach().clone() for layer in layers(model)]
        moved = [layer.sora_gate["default"].tolist() for layer in layers(model)]
        thresholds.step()
        optimizer.zero_grad()
        for layer, gates, A in zip(layers(model), moved, others, strict=True):
            expected = [max(abs(g) - 0.2, 0) * (1 if g > 0 else -1) for g in gates]
            assert layer.sora_gate["default"].tolist() == pytest.approx(expected, abs=1e-7)
            assert torch.equal(layer.sora_A["default"], A)
    assert thresholds.completed_steps == 3
    assert thresholds.open_gates == sum(
        int((layer.sora_gate["default"] != 0).sum()) for layer in layers(model)
    )


def test_a_schedule_is_followed_from_the_step_at_which_a_training_goes_on() -> None:
    fields = {"threshold": 0.1, "max_threshold": 0.4, "threshold_schedule": "linear"}
    model = adapted(threshold_stages=4, **fields)

    def found(completed: int, steps: int) -> list[float]:
        thresholds = GateThreshold(model, total_steps=8, completed_steps=completed)
        values = []
        for _ in range(steps):
            values.append(thresholds.threshold)
            thresholds.step()
        return values

    whole = [0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.4, 0.4]
    # Beyond its end a training keeps the last value.
    assert found(0, 10) == pytest.approx([*whole, 0.4, 0.4])
    assert found(3, 5) == pytest.approx(whole[3:])


def test_closed_gates_open_again_when_the_gradient_wants_it() -> None:
    model = adapted(threshold=0.0)
    close(model, [[], []])
    sgd_steps(model, rows(), steps=1)
    assert GateThreshold(model, 1).open_gates > 0


# Pruning

KEPT = {
    "some": [[0, 2], [3]],
    "all": [[0, 1, 2, 3], [0, 1, 2, 3]],
    "none_of_a_matrix": [[], [1, 2]],
    "none": [[], []],
}
every_pruning = pytest.mark.parametrize("kept", KEPT.values(), ids=KEPT)


@every_pruning
def test_pruning_keeps_the_change_bit_for_bit(kept: list[list[int]]) -> None:
    model = adapted()
    close(model, kept)
    before, expected = deltas(model), model(rows())
    ranks = prune_gates(model)
    assert ranks == dict(zip(["lin0", "lin1"], map(len, kept), strict=True))
    for layer, indices, delta in zip(layers(model), kept, before, strict=True):
        r, (d_out, d_in) = len(indices), layer.matrix_shape()
        assert layer.sora_A["default"].shape == (r, d_in)
        assert layer.sora_gate["default"].shape == (r,)
        assert layer.sora_B["default"].shape == (d_out, r)
        assert torch.equal(layer.get_delta_weight("default"), delta)
    torch.testing.assert_close(model(rows()), expected, atol=1e-6, rtol=1e-6)


def test_pruned_ranks_leave_those_that_are_open() -> None:
    model = adapted()
    close(model, [[1, 3], [0]])
    layer = layers(model)[0]
    held = (layer.sora_A, layer.sora_gate, layer.sora_B)
    A, g, B = (tensors["default"].detach().clone() for tensors in held)
    prune_gates(model)
    assert torch.equal(layer.sora_A["default"], A[[1, 3]])
    assert torch.equal(layer.sora_gate["default"], g[[1, 3]])
    assert torch.equal(layer.sora_B["default"], B[:, [1, 3]])
    assert layer.sora_A["default"].requires_grad


def test_a_pruned_model_can_be_trained_on() -> None:
    model = adapted()
    close(model, [[], [1, 2]])
    prune_gates(model)
    before = deltas(model)
    sgd_steps(model, rows(), lr=0.1)
    after = deltas(model)
    assert torch.equal(after[0], before[0])
    assert not torch.equal(after[1], before[1])


@every_pruning
@pytest.mark.parametrize("kind", [LINEAR, CONV1D], ids=lambda kind: kind.name)
def test_saved_after_pruning_loads_into_a_fresh_model(
    kept: list[list[int]], kind: Kind, tmp_path: Path
) -> None:
    model, x = adapted(kind), kind.inputs()
    # A Conv1D model has four matrices.
    kept = [kept[index % 2] for index in range(len(layers(model)))]
    close(model, kept)
    prune_gates(model)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(kind.model(), tmp_path).eval()
    assert [len(layer.sora_gate["default"]) for layer in layers(loaded)] == list(map(len, kept))
    assert torch.equal(loaded(x), model(x))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_patterns_of_pruned_ranks_name_one_matrix_each(tmp_path: Path) -> None:
    """Eleven layers, so that layer 1 and layer 10 both exist."""
    base = tiny_bert(num_hidden_layers=11)
    torch.manual_seed(1)
    model = get_peft_model(base, SoraConfig(r=3, task_type="SEQ_CLS", init_weights=False)).eval()
    count = len(layers(model))
    close(model, [list(range(index % 4))[:3] for index in range(count)])
    prune_gates(model)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_bert(num_hidden_layers=11), tmp_path).eval()
    assert torch.equal(loaded(**bert_batch()).logits, model(**bert_batch()).logits)
    # A second adapter beside a pruned one has ranks of its own.
    loaded.add_adapter("other", SoraConfig(r=3, task_type="SEQ_CLS"))
    assert {len(layer.sora_gate["other"]) for layer in layers(loaded, "other")} == {3}


def test_low_cpu_mem_usage_loads_the_same_adapter(tmp_path: Path) -> None:
    model = adapted()
    close(model, KEPT["none_of_a_matrix"])
    prune_gates(model)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(LINEAR.model(), tmp_path, low_cpu_mem_usage=True).eval()
    torch.testing.assert_close(loaded(rows()), model(rows()), atol=1e-6, rtol=1e-6)


def test_an_adapter_that_transformers_added_is_pruned_too(tmp_path: Path) -> None:
    model = tiny_bert()
    torch.manual_seed(1)
    model.add_adapter(SoraConfig(r=3, init_weights=False))
    close(model, [[0]] * len(layers(model)))
    expected = model(**bert_batch()).logits
    assert set(prune_gates(model).values()) == {1}
    torch.testing.assert_close(model(**bert_batch()).logits, expected, atol=1e-6, rtol=1e-6)
    model.save_pretrained(tmp_path)
    loaded = tiny_bert()
    loaded.load_adapter(str(tmp_path))
    assert torch.equal(loaded(**bert_batch()).logits, model(**bert_batch()).logits)


# Merging, and several adapters


@every_kind
def test_merge_equals_forward_and_unmerge_restores(kind: Kind) -> None:
    model, x = adapted(kind), kind.inputs()
    expected = model(x)
    weight = layers(model)[0].get_base_layer().weight.detach().clone()
    model.merge_adapter()
    torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)
    assert not torch.equal(layers(model)[0].get_base_layer().weight, weight)
    model.unmerge_adapter()
    torch.testing.assert_close(layers(model)[0].get_base_layer().weight, weight)
    merged = model.merge_and_unload(safe_merge=True)
    assert [type(m) for m in merged.modules()] == [type(m) for m in kind.model().modules()]
    torch.testing.assert_close(merged(x), expected, atol=1e-5, rtol=1e-5)


@every_pruning
def test_a_pruned_adapter_merges(kept: list[list[int]]) -> None:
    model = adapted()
    close(model, kept)
    prune_gates(model)
    expected = model(rows())
    merged = model.merge_and_unload(safe_merge=True)
    torch.testing.assert_close(merged(rows()), expected, atol=1e-5, rtol=1e-5)


def test_it_is_a_lora_exactly() -> None:
    model = adapted(r=2)
    found, state = convert_to_lora(model, rank=2, progressbar=False)
    assert isinstance(found, LoraConfig)
    lora = get_peft_model(LINEAR.model(), found).eval()
    set_peft_model_state_dict(lora, state)
    torch.testing.assert_close(lora(rows()), model(rows()), atol=1e-5, rtol=1e-5)


def two_adapters() -> PeftModel:
    model = adapted()
    model.add_adapter("other", config(r=2, init_weights=False))
    return model


def test_several_adapters_add_up_mix_and_go_away() -> None:
    model, x = two_adapters(), rows()
    plain = LINEAR.model()(x)
    outputs = {}
    for name in ("default", "other"):
        model.set_adapter(name)
        outputs[name] = model(x)
        assert not torch.allclose(outputs[name], plain, atol=1e-4)
    mixed = model(x, adapter_names=["other", "default", "__base__", "default", "other"])
    outputs["__base__"] = plain
    for row, name in enumerate(["other", "default", "__base__", "default", "other"]):
        torch.testing.assert_close(mixed[row], outputs[name][row])
    with model.disable_adapter():
        assert torch.equal(model(x), plain)
    first = layers(model)[0]
    inputs = x[:2]
    model.base_model.set_adapter(["default", "other"])
    change = sum(first.get_delta_weight(name) for name in ("default", "other"))
    torch.testing.assert_close(first(inputs), first.get_base_layer()(inputs) + inputs @ change.T)
    model.set_adapter("default")
    model.delete_adapter("other")
    assert not gated_layers(model, "other")
    assert not [name for name, _ in model.named_parameters() if "other" in name]
    assert torch.equal(model(x), outputs["default"])


def test_thresholding_and_pruning_leave_other_adapters_alone() -> None:
    model = two_adapters()
    before = deltas(model)
    GateThreshold(model, 1, "other").step()
    close(model, [[0], []], "other")
    prune_gates(model, "other")
    assert [len(layer.sora_gate["other"]) for layer in layers(model, "other")] == [1, 0]
    assert all(torch.equal(one, two) for one, two in zip(deltas(model), before, strict=True))
    assert model.peft_config["default"].rank_pattern == {}


# The trainer


def bert_model(**fields: Any) -> PeftModel:
    base = tiny_bert(hidden_dropout_prob=0.1)
    torch.manual_seed(1)
    return get_peft_model(base, SoraConfig(task_type="SEQ_CLS", r=4, **fields))


def trainer_for(model: nn.Module, folder: Path, **options: Any) -> Trainer:
    trainer = Trainer(
        model,
        arguments(folder, **options),
        train_dataset=Examples(bert_batch(16)),
        eval_dataset=Examples(bert_batch(8, seed=1)),
        callbacks=[SoraCallback()],
    )
    trainer.model_accepts_loss_kwargs = False
    return trainer


def open_gates(model: nn.Module) -> int:
    return sum(int(layer.sora_gate["default"].count_nonzero()) for layer in layers(model))


def test_the_trainer_closes_gates_logs_them_and_prunes_at_the_end(tmp_path: Path) -> None:
    model = bert_model(threshold=0.1)
    total = sum(len(layer.sora_gate["default"]) for layer in layers(model))
    trainer = trainer_for(model, tmp_path)
    trainer.train()
    counts = [entry["open_gates"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(counts) == TOTAL
    assert counts == sorted(counts, reverse=True)
    # About a tenth of the standard normal lies within 0.1, and two thirds within 1.
    assert total > counts[0] > counts[-1] > 0
    ranks = [len(layer.sora_gate["default"]) for layer in layers(model)]
    assert sum(ranks) == open_gates(model) == counts[-1]
    model.save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(tiny_bert(), tmp_path / "adapter").eval()
    assert torch.equal(loaded(**bert_batch()).logits, model.eval()(**bert_batch()).logits)


def test_only_logs_of_the_training_have_open_gates(tmp_path: Path) -> None:
    trainer = trainer_for(bert_model(), tmp_path, eval_strategy="steps", eval_steps=5)
    trainer.train()
    for entry in trainer.state.log_history:
        assert ("open_gates" in entry) == ("loss" in entry)


def test_the_trainers_step_is_the_optimizers_and_then_the_threshold(tmp_path: Path) -> None:
    def gates_after_a_step(threshold: float) -> list[Tensor]:
        model = bert_model(threshold=threshold, init_weights=False)
        trainer_for(model, tmp_path, max_steps=1).train()
        return [layer.sora_gate["default"].detach() for layer in layers(model)]

    moved, thresholded = gates_after_a_step(0.0), gates_after_a_step(0.3)
    for gates, found in zip(moved, thresholded, strict=True):
        expected = gates.sign() * (gates.abs() - 0.3).clamp(min=0)
        # Pruned, since the training is over.
        torch.testing.assert_close(found, expected[expected != 0])


def test_a_threshold_belongs_to_an_optimizer_step(tmp_path: Path) -> None:
    trainer = trainer_for(bert_model(), tmp_path, gradient_accumulation_steps=2)
    trainer.train()
    callback = next(c for c in trainer.callback_handler.callbacks if isinstance(c, SoraCallback))
    assert callback.thresholds["default"].completed_steps == TOTAL


SCHEDULE = {"threshold": 0.02, "max_threshold": 0.3, "threshold_schedule": "exp_linear"}


@pytest.mark.parametrize("steps", [4, TOTAL])
def test_a_resumed_training_ends_as_the_uninterrupted_one(steps: int, tmp_path: Path) -> None:
    whole = bert_model(**SCHEDULE)
    trainer_for(whole, tmp_path, save_strategy="steps", save_steps=2).train()
    resumed = bert_model(**SCHEDULE)
    again = trainer_for(resumed, tmp_path / "resumed")
    again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{steps}"))
    assert 0 < open_gates(whole) < sum(4 for _ in layers(whole))
    for ours, theirs in zip(layers(resumed), layers(whole), strict=True):
        for held in ("sora_A", "sora_gate", "sora_B"):
            assert torch.equal(getattr(ours, held)["default"], getattr(theirs, held)["default"])


def test_an_interrupted_training_is_not_pruned(tmp_path: Path) -> None:
    model = bert_model(threshold=0.1)
    trainer = trainer_for(model, tmp_path)

    class Stop(SoraCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None: ...

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = state.global_step == 3

    trainer.add_callback(Stop())
    trainer.train()
    assert {len(layer.sora_gate["default"]) for layer in layers(model)} == {4}
    assert model.peft_config["default"].rank_pattern == {}


# Refusals

BAD = {
    "r": ({"r": 0}, "r=0 must be a whole number of at least 1"),
    "fractional_r": ({"r": 2.5}, "r=2.5 must be a whole number of at least 1"),
    "lora_alpha": ({"lora_alpha": 0}, "lora_alpha=0 must be above 0"),
    "lora_dropout": ({"lora_dropout": 1.0}, r"lora_dropout=1.0 must lie in \[0, 1\)"),
    "threshold": ({"threshold": -1e-4}, "threshold=-0.0001 must not be negative"),
    "schedule": ({"threshold_schedule": "cubic"}, "threshold_schedule='cubic' is not known"),
    "stages": ({"threshold_stages": 0}, "threshold_stages=0 must be a whole number of at least 1"),
    "no_maximum": ({"threshold_schedule": "linear"}, "max_threshold=None must be given"),
    "low_maximum": (
        {"threshold_schedule": "linear", "threshold": 0.2, "max_threshold": 0.1},
        "max_threshold=0.1 must be given, and not below threshold=0.2",
    ),
    "logarithm": (
        {"threshold_schedule": "exp_linear", "threshold": 0, "max_threshold": 0.1},
        "threshold=0 has no logarithm",
    ),
}


@pytest.mark.parametrize(("fields", "said"), BAD.values(), ids=BAD)
def test_a_value_that_cannot_be_meant_is_one_sentence(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as raised:
        SoraConfig(**fields)
    sentence = str(raised.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")


def test_thresholds_of_a_model_without_such_an_adapter_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="adapter_name='nobody'"):
        GateThreshold(adapted(), 10, "nobody")
    with pytest.raises(UserError, match="SoraCallback found no SoRA adapter"):
        trainer_for(tiny_bert(), tmp_path).train()


def test_the_config_comes_back_as_it_was(tmp_path: Path) -> None:
    written = config(**SCHEDULE, rank_pattern={"^lin0": 1})
    written.save_pretrained(tmp_path)
    read = SoraConfig.from_pretrained(tmp_path)
    for name in ("r", "lora_alpha", *SCHEDULE, "rank_pattern", "target_modules"):
        assert getattr(read, name) == getattr(written, name), name
