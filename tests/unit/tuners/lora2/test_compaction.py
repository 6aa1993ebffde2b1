"""An adapter that was pruned is as large as what it kept: in memory, in its file, and in time."""

import copy
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lora2 import (
    Lora2Config,
    RankAllocator,
    UserError,
    compact_adapter,
    export_lora,
    truncate_adapter,
)
from lora2.errors import NumericalError
from lora2.tuners.lora2.saving import is_of_adapter
from unit.models import CONV1D, CONV2D, EMBEDDING, LINEAR, Kind, disturb, layers_of, rows, sgd_steps
from unit.operations import Operations
from unit.tiny_transformers import tiny_bert, tiny_llama

K = 3
FORMS = ("exact", "penalty")


def adapted(kind: Kind, form: str = "exact", **fields: Any) -> PeftModel:
    model = get_peft_model(kind.model(), kind.config(form, **fields)).eval()
    disturb(model)
    return model


@torch.no_grad()
def prune_to(model: nn.Module, *kept: int) -> None:
    """Leave this many singular values in each layer, the last ones, and end the schedule."""
    layers = layers_of(model).values()
    for index, layer in enumerate(layers):
        lam = layer.parameters_of("default")["lam"]
        lam[: len(lam) - kept[index % len(kept)]] = 0
        layer.lora2_states["default"].is_finished = True


def changes(model: nn.Module) -> dict[str, Tensor]:
    return {name: m.get_delta_weight("default") for name, m in layers_of(model).items()}


def assert_same_changes(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, change in expected.items():
        error = (actual[name] - change).abs().max()
        assert error <= 1e-6 * change.abs().max(), name


@pytest.mark.parametrize("kept", range(K + 1))
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", [LINEAR, CONV1D, EMBEDDING, CONV2D], ids=lambda kind: kind.name)
def test_every_change_stays_in_memory_and_in_the_file(
    kind: Kind, form: str, kept: int, tmp_path: Path
) -> None:
    model = adapted(kind, form)
    prune_to(model, kept)
    expected, output = changes(model), model(kind.inputs())
    scalings = {name: dict(m.scaling) for name, m in layers_of(model).items()}
    model.save_pretrained(tmp_path)
    compact_adapter(model)
    reloaded = PeftModel.from_pretrained(kind.model(), tmp_path).eval()
    for each in (model, reloaded):
        assert_same_changes(changes(each), expected)
        torch.testing.assert_close(each(kind.inputs()), output, atol=1e-5, rtol=1e-5)
        widths = {min(m.sizes_of("default")[0], kept) for m in layers_of(each).values()}
        assert max(widths) == kept
    assert {name: dict(m.scaling) for name, m in layers_of(model).items()} == scalings
    for name, layer in layers_of(reloaded).items():
        if kept:
            assert layer.scaling["default"] == pytest.approx(scalings[name]["default"], rel=1e-15)


def test_compact_in_memory_and_in_the_file_are_the_same_tensors(tmp_path: Path) -> None:
    model = adapted(LINEAR)
    prune_to(model, 1, 2)
    model.save_pretrained(tmp_path)
    compact_adapter(model)
    reloaded = PeftModel.from_pretrained(LINEAR.model(), tmp_path)
    for name, layer in layers_of(model).items():
        other = layers_of(reloaded)[name].parameters_of("default")
        for symbol, tensor in layer.parameters_of("default").items():
            assert torch.equal(tensor, other[symbol]), (name, symbol)


@pytest.mark.parametrize("symbol", ["v", "u", "lam", "U", "V"])
def test_factors_that_are_no_numbers_are_named_and_nothing_is_made_smaller(
    symbol: str, tmp_path: Path
) -> None:
    model = adapted(LINEAR)
    prune_to(model, 1)
    name, layer = list(layers_of(model).items())[-1]
    sizes = [each.sizes_of("default") for each in layers_of(model).values()]
    with torch.no_grad():
        layer.parameters_of("default")[symbol][0] = torch.nan
    for shrink in (compact_adapter, lambda model: model.save_pretrained(tmp_path)):
        with pytest.raises(NumericalError, match=f"NaN or infinity in a factor of .*{name}"):
            shrink(model)
    assert [each.sizes_of("default") for each in layers_of(model).values()] == sizes
    with pytest.raises(NumericalError, match=f"NaN or infinity in the change of .*{name}"):
        truncate_adapter(model, rank=1)


def test_a_name_that_no_adapter_has_is_refused() -> None:
    with pytest.raises(UserError, match="adapter_name='other': the model has no LoRA² adapter"):
        compact_adapter(adapted(LINEAR), "other")


def test_saved_config_has_all_sizes_and_the_users_stays(tmp_path: Path) -> None:
    config = LINEAR.config(lora_alpha=6.0)
    model = get_peft_model(LINEAR.model(), config)
    prune_to(model, 1, 0)
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    # lin1 has two outputs, hence k = 2 of its own, and keeps nothing.
    assert saved["rank_pattern"] == {"lin0": 1, "lin1": 0}
    assert saved["k_pattern"] == {"lin0": 1}
    # The scaling stays 6 / 3.
    assert saved["alpha_pattern"] == {"lin0": 2.0}
    assert config.rank_pattern == config.k_pattern == config.alpha_pattern == {}


def test_reading_a_state_dict_changes_no_config(tmp_path: Path) -> None:
    config = LINEAR.config()
    model = get_peft_model(LINEAR.model(), config)
    prune_to(model, 1, 0)
    before = copy.deepcopy(config.to_dict())
    get_peft_model_state_dict(model)
    assert config.to_dict() == before
    assert config == copy.deepcopy(config)


def test_the_sizes_of_an_adapter_are_in_its_own_file_alone(tmp_path: Path) -> None:
    """A config that serves again is saved as the user wrote it."""
    config = LINEAR.config()
    model = get_peft_model(LINEAR.model(), config)
    prune_to(model, 1, 0)
    for folder in (tmp_path / "adapter", tmp_path / "again"):
        model.save_pretrained(folder)
        assert json.loads((folder / "adapter_config.json").read_text())["rank_pattern"]
    config.save_pretrained(str(tmp_path / "config"))
    saved = json.loads((tmp_path / "config" / "adapter_config.json").read_text())
    assert saved["rank_pattern"] == saved["k_pattern"] == saved["alpha_pattern"] == {}


def operations(model: nn.Module, x: Tensor) -> Counter[str]:
    with torch.no_grad(), Operations() as seen:
        model(x)
    return seen.counts


@pytest.mark.parametrize("kind", [LINEAR, CONV1D, EMBEDDING, CONV2D], ids=lambda kind: kind.name)
def test_a_module_that_kept_nothing_runs_what_its_base_layer_runs(kind: Kind) -> None:
    model = adapted(kind)
    prune_to(model, 0)
    compact_adapter(model)
    assert operations(model, kind.inputs()) == operations(kind.model(), kind.inputs())
    assert sum(p.numel() for n, p in model.named_parameters() if "lora2_" in n) == 0


def test_what_nothing_is_left_of_waits_for_no_gradient() -> None:
    model = adapted(LINEAR).train()
    prune_to(model, 0, 2)
    compact_adapter(model)
    model.base_model.set_adapter("default")
    model(rows()).square().mean().backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert trained
    assert all(parameter.grad is not None for parameter in trained)


@pytest.mark.parametrize("form", FORMS)
def test_training_pruning_and_saving_continue_from_a_compact_adapter(
    form: str, tmp_path: Path
) -> None:
    model = adapted(LINEAR, form)
    prune_to(model, 2, 1)
    model.save_pretrained(tmp_path / "first")
    model = PeftModel.from_pretrained(LINEAR.model(), tmp_path / "first", is_trainable=True)
    before = changes(model)
    sgd_steps(model, rows(), lr=0.1)
    assert all(not torch.equal(change, before[name]) for name, change in changes(model).items())
    config = model.peft_config["default"]
    config.target_r, config.tinit, config.tfinal = 1.0, 0, 1
    allocator = RankAllocator(model, 3)
    for _ in range(3):
        model(rows()).square().mean().backward()
        allocator.step()
    assert allocator.kept == 2
    model.save_pretrained(tmp_path / "second")
    again = PeftModel.from_pretrained(LINEAR.model(), tmp_path / "second").eval()
    assert_same_changes(changes(again), changes(model))


def test_compact_adapters_merge_combine_and_export_as_the_whole_one_does(tmp_path: Path) -> None:
    def model() -> PeftModel:
        config = Lora2Config(task_type="CAUSAL_LM", k=4, init_r=4, target_modules="all-linear")
        adapter = get_peft_model(tiny_llama(), config).eval()
        disturb(adapter)
        prune_to(adapter, 2, 0, 1)
        return adapter

    tokens = torch.tensor([[3, 1, 4, 1, 5]])
    whole, small = model(), model()
    compact_adapter(small)
    with torch.no_grad():
        logits = whole(tokens).logits
        close = {"atol": 1e-4, "rtol": 1e-4}
        torch.testing.assert_close(small(tokens).logits, logits, **close)
        for compact in (False, True):
            folder = tmp_path / f"lora{compact}"
            export_lora(small, folder, compact=compact)
            lora = PeftModel.from_pretrained(tiny_llama(), folder).eval()
            torch.testing.assert_close(lora(tokens).logits, logits, **close)
        for each in (whole, small):
            each.base_model.add_weighted_adapter(["default"], [0.5], "scaled")
            each.base_model.set_adapter("scaled")
        torch.testing.assert_close(small(tokens).logits, whole(tokens).logits, **close)
        small.base_model.set_adapter("default")
        merged = small.merge_and_unload()(tokens).logits
        torch.testing.assert_close(merged, logits, **close)


def test_a_state_dict_of_a_compact_module_keeps_its_scaling() -> None:
    model = adapted(LINEAR)
    prune_to(model, 1, 2)
    compact_adapter(model)
    again = adapted(LINEAR)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(rows()), model(rows()))
    assert_same_changes(changes(again), changes(model))


def test_a_file_of_before_with_empty_inner_factors_loads(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = adapted(LINEAR)
    prune_to(model, 0, 2)
    model.save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    wide = {"v": (K, 6), "u": (K, 0), "lambda": (0,), "U": (0, K), "V": (K, 6)}
    for symbol, shape in wide.items():
        (key,) = (key for key in tensors if f"lin0.lora2_{symbol}" in key)
        tensors[key] = torch.ones(shape)
    save_file(tensors, file)
    loaded = PeftModel.from_pretrained(LINEAR.model(), tmp_path).eval()
    torch.testing.assert_close(loaded(rows()), model(rows()), atol=1e-5, rtol=1e-5)


def test_a_budget_that_nobody_prunes_to_is_reported_where_the_first_matrix_is_empty() -> None:
    fields = {"rank_pattern": {"lin0": 0}, "target_r": 0.5, "tinit": 0, "tfinal": 1}
    model = get_peft_model(LINEAR.model(), LINEAR.config(**fields)).train()
    with pytest.warns(UserWarning, match="nothing prunes it"):
        sgd_steps(model, rows(), lr=0.1)


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_finished_adapter_loads_what_it_saved(in_memory: bool, tmp_path: Path) -> None:
    model, x = adapted(LINEAR), LINEAR.inputs()
    prune_to(model, 1, 0)
    for layer in layers_of(model).values():
        layer.lora2_states["default"].is_finished = True
    expected = model(x)
    model.save_pretrained(tmp_path)
    saved = copy.deepcopy(get_peft_model_state_dict(model))
    with torch.no_grad():
        for layer in layers_of(model).values():
            layer.parameters_of("default")["V"].mul_(2)
    if in_memory:
        set_peft_model_state_dict(model, saved)
    else:
        model.load_adapter(str(tmp_path), "default")
    assert (model(x) - expected).abs().max() < 1e-6


def test_weights_of_before_the_end_load_into_a_compacted_adapter() -> None:
    model, x = adapted(LINEAR), LINEAR.inputs()
    whole, expected = copy.deepcopy(get_peft_model_state_dict(model)), model(x)
    prune_to(model, 1, 0)
    compact_adapter(model)
    set_peft_model_state_dict(model, whole)
    assert (model(x) - expected).abs().max() < 1e-6


@pytest.mark.parametrize(
    "shrink", [compact_adapter, lambda model: truncate_adapter(model, rank=0.5)]
)
def test_a_module_of_before_the_end_loads_into_a_smaller_adapter(
    shrink: Callable[[nn.Module], Any],
) -> None:
    model, x = adapted(LINEAR), LINEAR.inputs()
    whole, expected = copy.deepcopy(model.state_dict()), model(x)
    prune_to(model, 1, 0)
    shrink(model)
    assert any(k < K for k, _ in sizes(model))
    model.load_state_dict(whole)
    assert torch.equal(model(x), expected)


def test_a_module_of_a_k_that_it_never_had_does_not_load() -> None:
    model = adapted(LINEAR)
    prune_to(model, 2, 1)
    compact_adapter(model)
    for form in ({"k": 5, "init_r": 5}, {"k": 1, "init_r": 3}):
        other = adapted(LINEAR, **form)
        with pytest.raises(RuntimeError, match=r"size mismatch for base_model\.model\.lin0"):
            model.load_state_dict(other.state_dict())


def sizes(model: nn.Module) -> list[tuple[int, int]]:
    return [layer.sizes_of("default") for layer in layers_of(model).values()]


def test_weights_of_another_k_do_not_load_into_a_finished_adapter(tmp_path: Path) -> None:
    other = get_peft_model(LINEAR.model(), LINEAR.config("k_is_one")).eval()
    disturb(other)
    other.save_pretrained(tmp_path)
    model = adapted(LINEAR)
    prune_to(model, 2, 2)
    compact_adapter(model)
    with pytest.raises(UserError, match="give the config the k that it was trained with"):
        model.load_adapter(str(tmp_path), "default")


def test_a_cut_adapter_is_in_distributed_checkpoints_and_loads_from_them() -> None:
    model = get_peft_model(LINEAR.model(), LINEAR.config(init_weights=False)).eval()
    other = copy.deepcopy(model)
    truncate_adapter(model, rank=1)
    state = get_model_state_dict(model)
    scalings = [name for name in state if "lora2_scaling.default" in name]
    assert len(scalings) == len(layers_of(model))
    other.load_state_dict(state)
    assert torch.equal(other(rows()), model(rows()))
    # A state of before the cut, or of an older version, has no scaling.
    assert model.load_state_dict({n: t for n, t in state.items() if n not in scalings})
    older = {n: t.view(torch.float64) if n in scalings else t for n, t in state.items()}
    another = get_peft_model(LINEAR.model(), LINEAR.config(init_weights=False)).eval()
    another.load_state_dict(older)
    assert torch.equal(another(rows()), model(rows()))
    # A cast of the whole model does not round it.
    exact = {name: state[name] for name in scalings}
    cast = copy.deepcopy(model).to(torch.bfloat16).state_dict()
    assert all(torch.equal(cast[name], scaling) for name, scaling in exact.items())


def test_the_scaling_of_a_cut_adapter_survives_an_average_of_the_buffers() -> None:
    config = LINEAR.config(k=7, init_r=7, lora_alpha=10.0, init_weights=False)
    model = get_peft_model(LINEAR.model(), config).eval()
    truncate_adapter(model, rank=1)
    average = AveragedModel(model, use_buffers=True, multi_avg_fn=get_ema_multi_avg_fn(0.999))
    for _ in range(20):
        average.update_parameters(model)
    expected = {name: layer.scaling["default"] for name, layer in layers_of(model).items()}
    other = get_peft_model(LINEAR.model(), config).eval()
    other.load_state_dict(average.module.state_dict())
    found = {name: layer.scaling["default"] for name, layer in layers_of(other).items()}
    assert found == expected


def test_an_empty_matrix_is_never_trained_whoever_switches_it_on() -> None:
    model = get_peft_model(LINEAR.model(), LINEAR.config(init_weights=False))
    for layer in layers_of(model).values():
        with torch.no_grad():
            layer.parameters_of("default")["lam"].zero_()
        break
    compact_adapter(model)
    model.set_requires_grad("default", False)
    assert not any("lora2_" in name for name, p in model.named_parameters() if p.requires_grad)
    model.set_requires_grad("default", True)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all(parameter.numel() for parameter in trained.values())


def test_saved_tensors_of_the_adapter_are_told_from_those_of_the_head() -> None:
    config = Lora2Config(k=K, init_r=K, task_type="SEQ_CLS", trainable_token_indices=[1])
    model = get_peft_model(tiny_bert(), config)
    saved = get_peft_model_state_dict(model, save_embedding_layers=False)
    of_head = {name for name in saved if not is_of_adapter(name)}
    assert of_head == {f"base_model.model.classifier.{part}" for part in ("weight", "bias")}
