"""SoRA's gates: thresholded after the optimizer's step, and dropped once closed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model

from lora2 import SoraConfig, UserError
from lora2.tuners.sora import GateThreshold, prune_gates
from unit.models import CONV1D, LINEAR, Kind, rows, sgd_steps
from unit.sora import KEPT, adapted, close, config, deltas, every_pruning, layers
from unit.tiny_transformers import bert_batch, tiny_bert
from upstream import ADAPTERS_OF_TRANSFORMERS


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


def test_the_users_config_may_serve_again_after_pruning() -> None:
    own = config(init_weights=False)
    for _ in range(2):
        model = get_peft_model(LINEAR.model(), own)
        close(model, [[1, 3], []])
        assert prune_gates(model) == {"lin0": 2, "lin1": 0}
        assert model.peft_config["default"].rank_pattern == {"lin0": 2, "lin1": 0}
    assert own.rank_pattern == {}


def test_whole_names_of_older_files_still_load(tmp_path: Path) -> None:
    model = adapted()
    close(model, [[1, 3], []])
    prune_gates(model)
    model.save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    content = json.loads(file.read_text())
    assert content["rank_pattern"] == {"lin0": 2, "lin1": 0}
    file.write_text(json.dumps(content | {"rank_pattern": {"^lin0": 2, "^lin1": 0}}))
    loaded = PeftModel.from_pretrained(LINEAR.model(), tmp_path).eval()
    assert torch.equal(loaded(rows()), model(rows()))


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
    # A second adapter next to a pruned one has ranks of its own.
    loaded.add_adapter("other", SoraConfig(r=3, task_type="SEQ_CLS"))
    assert {len(layer.sora_gate["other"]) for layer in layers(loaded, "other")} == {3}


def test_low_cpu_mem_usage_loads_the_same_adapter(tmp_path: Path) -> None:
    model = adapted()
    close(model, KEPT["none_of_a_matrix"])
    prune_gates(model)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(LINEAR.model(), tmp_path, low_cpu_mem_usage=True).eval()
    torch.testing.assert_close(loaded(rows()), model(rows()), atol=1e-6, rtol=1e-6)


@ADAPTERS_OF_TRANSFORMERS
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


def test_thresholds_of_an_adapter_that_is_not_there_are_refused() -> None:
    with pytest.raises(UserError, match="adapter_name='nobody'"):
        GateThreshold(adapted(), 10, "nobody")


def test_thresholds_of_one_adapter_leave_another_of_its_name_alone() -> None:
    model = adapted(threshold=0.2)
    model.add_adapter("stays", model.peft_config["default"])
    thresholds = GateThreshold(model, total_steps=3)
    config = model.peft_config["default"]
    model.set_adapter("stays")
    model.delete_adapter("default")
    with pytest.raises(UserError, match="Adapter 'default' has been deleted since"):
        thresholds.step()
    model.add_adapter("default", config)
    before = [layer.sora_gate["default"].tolist() for layer in layers(model)]
    with pytest.raises(UserError, match="another has its name; make a new GateThreshold"):
        thresholds.step()
    assert [layer.sora_gate["default"].tolist() for layer in layers(model)] == before
