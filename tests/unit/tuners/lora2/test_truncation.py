"""A trained adapter cut at one threshold: the nearest change of its ranks, and its error."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from lora2 import Lora2Config, UserError, import_lora, truncate_adapter
from lora2.tuners.lora2.truncation import kept_ranks
from unit.models import CONV1D, LINEAR, disturb, layers_of, rows
from unit.tiny_transformers import tiny_llama

SPECTRA = {"a": [9.0, 3.0, 1.0], "b": [8.0, 7.0], "c": [0.5]}
COSTS = {"a": 10, "b": 20, "c": 1}


@pytest.mark.parametrize(
    ("wanted", "ranks"),
    [
        ({"rank": 1}, (1, 2, 0)),
        ({"rank": 4 / 3}, (2, 2, 0)),
        ({"rank": 0.01}, (1, 0, 0)),
        ({"rank": 10}, (3, 2, 1)),
        ({"size": 30}, (1, 1, 0)),
        # 9, 8, 7 cost 50. The next value, 3, would cost 10 more: nothing below it is kept either.
        ({"size": 59}, (1, 2, 0)),
        ({"size": 60}, (2, 2, 0)),
        ({"size": 71}, (3, 2, 1)),
        ({"size": 0.5}, (1, 1, 0)),
        ({"size": 5}, (0, 0, 0)),
    ],
    ids=str,
)
def test_one_threshold_holds_for_all_matrices(wanted, ranks):
    assert tuple(kept_ranks(SPECTRA, COSTS, **wanted).values()) == ranks


@pytest.mark.parametrize("of", [50, 100])
def test_a_share_that_is_a_whole_number_of_values_keeps_as_many(of):
    values = [float(of - index) for index in range(of)]
    kept = [kept_ranks({"a": values}, {"a": 256}, size=count / of)["a"] for count in range(1, of)]
    assert kept == list(range(1, of))


@pytest.mark.parametrize("kind", [LINEAR, CONV1D], ids=lambda kind: kind.name)
@pytest.mark.parametrize("form", ["exact", "penalty"])
def test_each_matrix_becomes_the_nearest_of_its_rank(kind, form):
    model = get_peft_model(kind.model(), kind.config(form)).eval()
    disturb(model)
    before = {n: m.get_delta_weight("default").detach() for n, m in layers_of(model).items()}
    cut = truncate_adapter(model, rank=1)
    lost = whole = 0.0
    for name, layer in layers_of(model).items():
        after = layer.get_delta_weight("default").detach()
        U, sigma, Vh = torch.linalg.svd(before[name].double(), full_matrices=False)
        kept = cut.ranks[name]
        nearest = (U[:, :kept] * sigma[:kept]) @ Vh[:kept]
        torch.testing.assert_close(after, nearest.float(), atol=1e-5, rtol=1e-4)
        assert layer.sizes_of("default") == (kept, kept)
        error = sigma[kept:].norm() / sigma.norm()
        assert cut.errors[name] == pytest.approx(float(error), rel=1e-4, abs=1e-6)
        lost, whole = lost + sigma[kept:].square().sum(), whole + sigma.square().sum()
    assert cut.error == pytest.approx(float((lost / whole).sqrt()), rel=1e-4)
    assert sum(cut.ranks.values()) == len(cut.ranks)


def test_a_cut_adapter_is_saved_and_loaded_with_its_ranks(tmp_path: Path):
    model = get_peft_model(LINEAR.model(), LINEAR.config()).eval()
    disturb(model)
    cut = truncate_adapter(model, size=0.5)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(LINEAR.model(), tmp_path).eval()
    torch.testing.assert_close(loaded(rows()), model(rows()), atol=1e-6, rtol=1e-6)
    assert {name: m.sizes_of("default")[0] for name, m in layers_of(loaded).items()} == cut.ranks


def test_a_lora_is_cut_by_way_of_import(tmp_path: Path):
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    lora = get_peft_model(tiny_llama(), config).eval()
    lora.save_pretrained(tmp_path)
    model = import_lora(tiny_llama(), tmp_path).eval()
    whole = truncate_adapter(model, rank=4)
    assert whole.error == 0
    tokens = torch.tensor([[3, 1, 4]])
    with torch.no_grad():
        torch.testing.assert_close(model(tokens).logits, lora(tokens).logits, atol=1e-4, rtol=1e-4)
    cut = truncate_adapter(model, rank=2)
    assert 0 < cut.error < 1
    assert sum(cut.ranks.values()) == 2 * len(cut.ranks)
    assert cut.parameters < whole.parameters


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({}, "rank=None and size=None: give one"),
        ({"rank": 1, "size": 1}, "rank=1 and size=1: give one"),
        ({"rank": 0}, "rank=0 must be a number above 0"),
        ({"rank": -1}, "rank=-1 must be a number above 0"),
        ({"size": float("nan")}, "size=nan must be a number above 0"),
        ({"size": float("inf")}, "size=inf must be a number above 0"),
        ({"rank": 1, "adapter_name": "other"}, "adapter_name='other'"),
    ],
    ids=str,
)
def test_what_is_no_cut_is_refused(wanted, said):
    model = get_peft_model(LINEAR.model(), LINEAR.config())
    with pytest.raises(UserError, match=said):
        truncate_adapter(model, **wanted)


def test_an_adapter_that_was_not_trained_is_not_cut():
    model = get_peft_model(LINEAR.model(), LINEAR.config("exact", init_weights=True))
    before = {name: layer.sizes_of("default") for name, layer in layers_of(model).items()}
    with pytest.raises(UserError, match=r"changes nothing, .* train it before it is cut"):
        truncate_adapter(model, rank=1)
    assert {name: layer.sizes_of("default") for name, layer in layers_of(model).items()} == before


@pytest.mark.parametrize("size", [1, 1e-9])
def test_a_size_that_no_value_fits_is_refused(size: float) -> None:
    model = get_peft_model(LINEAR.model(), LINEAR.config())
    disturb(model)
    with pytest.raises(UserError, match="the most important singular value alone, one of"):
        truncate_adapter(model, size=size)


def test_an_adapter_that_is_split_over_processes_is_not_cut(monkeypatch) -> None:
    monkeypatch.setattr("lora2.tuners.lora2.truncation.is_sharded", lambda tensor: True)
    model = get_peft_model(tiny_llama(), Lora2Config(task_type="CAUSAL_LM", k=3))
    with pytest.raises(UserError, match="is split over several processes; call save_pretrained"):
        truncate_adapter(model, rank=1)
