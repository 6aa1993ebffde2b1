"""Weighted sums of adapters."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor

from lora2 import Lora2Config, UserError
from lora2.errors import NumericalError
from lora2.tuners.lora2.layer import Lora2Layer
from unit.kind_case import with_three_adapters
from unit.models import KIND_IDS, KINDS, LINEAR, DeepMlp, Kind, disturb, layers_of, rows
from unit.tiny_transformers import bert_batch, tiny_bert

every_kind = pytest.mark.parametrize("kind", KINDS, ids=KIND_IDS)


def deltas(model: PeftModel, adapter_name: str) -> dict[str, Tensor]:
    return {
        name: layer.get_delta_weight(adapter_name).detach()
        for name, layer in layers_of(model).items()
        if layer.has_adapter(adapter_name)
    }


@pytest.mark.parametrize("size", [1e-4, 1e-8])
def test_what_a_cut_sum_leaves_out_is_exact_however_small(size: float) -> None:
    model = with_three_adapters(LINEAR)
    for layer in layers_of(model).values():
        d_out, d_in = layer.matrix_shape()
        X, _ = torch.linalg.qr(torch.randn(d_out, 2, dtype=torch.float64))
        Y, _ = torch.linalg.qr(torch.randn(d_in, 2, dtype=torch.float64))
        layer.double()
        layer.resize_adapter("default", 2, 2)
        layer.set_change("default", X, torch.tensor([1.0, size], dtype=torch.float64), Y.mT)
    missing = model.add_weighted_adapter(["default"], [1.0], "small", "svd", svd_rank=1)
    assert missing == pytest.approx(size, rel=1e-3)


@pytest.mark.parametrize("combination_type", ["cat", "linear"])
@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.5, -2.0, 1.5], [1.0, 0.0, 0.0]])
@every_kind
def test_weighted_sum_is_exact(kind: Kind, weights: list[float], combination_type: str) -> None:
    model = with_three_adapters(kind)
    names = ["default", "wide", "thin"]
    model.add_weighted_adapter(names, weights, "sum", combination_type=combination_type)
    parts = [deltas(model, name) for name in names]
    for module, total in deltas(model, "sum").items():
        expected = sum(w * part[module] for w, part in zip(weights, parts, strict=True))
        error = (total - expected).abs().max() / expected.abs().max()
        assert error < 4e-6, module


@every_kind
def test_svd_combination_is_the_best_approximation(kind: Kind) -> None:
    model, rank = with_three_adapters(kind), 2
    model.add_weighted_adapter(["default", "wide"], [1.0, -0.5], "sum", "svd", svd_rank=rank)
    for layer in layers_of(model).values():
        first, second, total = (
            torch.matmul(*layer.factors(name)).detach() for name in ("default", "wide", "sum")
        )
        left, sigma, right = torch.linalg.svd(first - 0.5 * second, full_matrices=False)
        best = (left[:, :rank] * sigma[:rank]) @ right[:rank]
        torch.testing.assert_close(total, best, atol=1e-5, rtol=1e-4)


@every_kind
def test_weighted_adapter_saves_and_reloads(kind: Kind, tmp_path: Path) -> None:
    model, x = with_three_adapters(kind), kind.inputs()
    model.add_weighted_adapter(["default", "wide", "thin"], [1.0, 0.5, -1.0], "sum")
    model.set_adapter("sum")
    model.save_pretrained(tmp_path, selected_adapters=["sum"])
    reloaded = PeftModel.from_pretrained(kind.model(), tmp_path / "sum").eval()
    with torch.no_grad():
        assert torch.equal(reloaded(x), model(x))


def test_combining_keeps_the_other_adapters_trainable() -> None:
    model = with_three_adapters(LINEAR)
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    model.add_weighted_adapter(["default", "wide"], [1.0, 1.0], "sum")
    after = {name: p.requires_grad for name, p in model.named_parameters() if ".sum" not in name}
    assert after == before


def test_combination_covers_the_layers_of_all_adapters(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = DeepMlp().eval()
    fields = {"k": 2, "init_r": 2}
    model = get_peft_model(
        base, Lora2Config(target_modules=["lin0"], layers_to_transform=[0], **fields)
    ).eval()
    model.add_adapter(
        "other",
        Lora2Config(
            target_modules=["lin0", "lin1"], exclude_modules=["body.layers.0.lin0"], **fields
        ),
    )
    for name in ("default", "other"):
        disturb(model, name)
    model.add_weighted_adapter(["default", "other"], [2.0, -1.0], "sum")
    expected: dict[str, Tensor] = {}
    for name, weight in (("default", 2.0), ("other", -1.0)):
        for module, delta in deltas(model, name).items():
            expected[module] = expected.get(module, 0) + weight * delta
    total = deltas(model, "sum")
    assert total.keys() == expected.keys()
    for module, delta in total.items():
        torch.testing.assert_close(delta, expected[module], atol=1e-5, rtol=1e-5)
    model.set_adapter("sum")
    model.save_pretrained(tmp_path, selected_adapters=["sum"])
    torch.manual_seed(0)
    reloaded = PeftModel.from_pretrained(DeepMlp().eval(), tmp_path / "sum")
    assert torch.equal(reloaded(rows()), model(rows()))


def test_regular_expressions_and_lists_combine() -> None:
    model = get_peft_model(DeepMlp(), Lora2Config(target_modules=r".*\.1\.lin0", k=2)).eval()
    model.add_adapter("other", Lora2Config(target_modules=["lin1"], k=2))
    for name in ("default", "other"):
        disturb(model, name)
    model.add_weighted_adapter(["default", "other"], [1.0, 1.0], "sum")
    expected = deltas(model, "default") | deltas(model, "other")
    total = deltas(model, "sum")
    assert total.keys() == expected.keys()
    for module, delta in total.items():
        torch.testing.assert_close(delta, expected[module], atol=1e-5, rtol=1e-5)


def test_combining_into_an_existing_name_changes_nothing() -> None:
    model = with_three_adapters(LINEAR)
    before = deltas(model, "thin")
    model.add_weighted_adapter(["default", "wide"], [1.0, 1.0], "thin")
    assert all(torch.equal(delta, before[name]) for name, delta in deltas(model, "thin").items())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((["default"], [1.0, 2.0], "sum"), "one weight for each adapter"),
        (([], [], "sum"), "at least one"),
        ((["default", "missing"], [1.0, 2.0], "sum"), "missing"),
        ((["default", "wide"], [1.0, 2.0], "sum", "ties"), "'ties' is not known"),
    ],
)
def test_impossible_combination_is_refused(arguments: tuple, sentence: str) -> None:
    model = with_three_adapters(LINEAR)
    with pytest.raises(UserError, match=sentence):
        model.add_weighted_adapter(*arguments)
    assert "sum" not in model.peft_config


@pytest.mark.parametrize("factor", ["lora2_v", "lora2_V"])
def test_an_adapter_with_nan_is_named_and_nothing_is_added(factor: str) -> None:
    model = with_three_adapters(LINEAR)
    with torch.no_grad():
        getattr(model.get_base_model().lin1, factor)["default"][0, 0] = torch.nan
    for _ in range(2):
        with pytest.raises(NumericalError, match="lin1"):
            model.add_weighted_adapter(["default", "wide"], [1.0, 1.0], "sum")
        assert list(model.peft_config) == ["default", "wide", "thin"]


def test_combination_takes_over_the_one_head_and_refuses_two(tmp_path: Path) -> None:
    fields = {"target_modules": ["query"], "k": 2}
    heads = {"modules_to_save": ["classifier"]}
    model = get_peft_model(tiny_bert(), Lora2Config(**fields, **heads)).eval()
    model.add_adapter("headless", Lora2Config(**fields))
    model.add_adapter("other", Lora2Config(**fields, **heads))
    disturb(model, "default")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "modules_to_save.default" in name:
                parameter.add_(1.0)
    batch = bert_batch()
    expected = model(**batch).logits
    model.add_weighted_adapter(["headless", "default"], [1.0, 1.0], "sum")
    model.set_adapter("sum")
    torch.testing.assert_close(model(**batch).logits, expected, atol=1e-5, rtol=1e-5)
    model.save_pretrained(tmp_path, selected_adapters=["sum"])
    reloaded = PeftModel.from_pretrained(tiny_bert(), tmp_path / "sum").eval()
    assert torch.equal(reloaded(**batch).logits, model(**batch).logits)
    with pytest.raises(UserError, match=r"'other', 'default'.*modules_to_save"):
        model.add_weighted_adapter(["other", "default"], [1.0, 1.0], "two")


def test_an_adapter_that_is_named_twice_has_both_weights_in_the_head_too() -> None:
    model = get_peft_model(tiny_bert(), Lora2Config(task_type="SEQ_CLS"), "one")
    model.add_adapter("two", Lora2Config(task_type="SEQ_CLS"))
    head = model.get_base_model().classifier.modules_to_save
    with torch.no_grad():
        head["one"].bias.fill_(3.0)
        head["two"].bias.fill_(0.0)
    model.add_weighted_adapter(["one", "one", "two"], [1.0, 1.0, 1.0], "sum", heads="average")
    assert torch.allclose(head["sum"].bias, torch.tensor(2.0))


@pytest.mark.parametrize("weights", [[1.0, 1.0, -2.0], [0.1, 0.2, -0.3]])
def test_heads_have_no_mean_where_the_sum_of_the_weights_is_a_rounding_error(
    weights: list[float],
) -> None:
    model = get_peft_model(tiny_bert(), Lora2Config(task_type="SEQ_CLS"), "one")
    model.add_adapter("two", Lora2Config(task_type="SEQ_CLS"))
    with pytest.raises(UserError, match="their sum is 0, so heads have no mean"):
        model.add_weighted_adapter(["one", "one", "two"], weights, "sum", heads="average")


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({"heads": "frist"}, "heads='frist' is not known: choose one of refuse, average, first"),
        ({"heads": None}, "heads=None is not known"),
        ({"svd_rank": "2"}, "svd_rank='2' must be a whole number of at least 1"),
        ({"svd_rank": -1}, "svd_rank=-1 must be"),
        ({"svd_rank": 0}, "svd_rank=0 must be"),
    ],
)
def test_a_choice_that_is_none_is_refused_and_nothing_is_added(choice, said) -> None:
    model = get_peft_model(LINEAR.model(), LINEAR.config())
    with pytest.raises(UserError, match=said):
        model.add_weighted_adapter(["default"], [1.0], "sum", combination_type="svd", **choice)
    assert list(model.peft_config) == ["default"]


@pytest.mark.parametrize("combination_type", ["cat", "svd"])
def test_a_model_that_was_merged_has_nothing_to_combine(combination_type: str) -> None:
    model = get_peft_model(tiny_bert(), Lora2Config(k=2))
    model.merge_and_unload()
    with pytest.raises(UserError, match="no layer has default any more"):
        model.base_model.add_weighted_adapter(["default"], [1.0], "sum", combination_type)


@pytest.mark.parametrize(
    ("adapters", "weights", "said"),
    [
        (None, [1.0], "adapters=None must be a list of names"),
        ("default", [1.0], "adapters='default' must be a list of names"),
        ({"default": 1.0}, [1.0], "adapters={'default': 1.0} must be a list of names"),
        ({"default"}, [1.0], "adapters={'default'} must be a list of names"),
        ([["default"]], [1.0], r"adapters=\[\['default'\]\] do not exist in this model"),
        (["default"], 0.5, "weights=0.5 must be a list of numbers"),
        (["default"], b"x", "weights=b'x' must be a list of numbers"),
        (["default"], torch.tensor(3), r"weights=tensor\(3\) must be a list of numbers"),
        (["default"], list, "weights=<class 'list'> must be a list of numbers"),
        (["default"], [True], "weights: true must be a finite number"),
        (["default"], [torch.ones(2)], "weights: .* must be a finite number"),
        (["default"], [10**400], "weights: a number of too many digits must be a finite number"),
    ],
)
def test_arguments_of_another_kind_are_refused_and_nothing_is_added(
    adapters: Any, weights: Any, said: str
) -> None:
    model = get_peft_model(LINEAR.model(), LINEAR.config())
    with pytest.raises(UserError, match=said):
        model.add_weighted_adapter(adapters, weights, "sum")
    assert list(model.peft_config) == ["default"]


@pytest.mark.parametrize("choice", ["combination_type", "heads"])
def test_an_array_is_no_choice(choice: str) -> None:
    model = get_peft_model(LINEAR.model(), LINEAR.config())
    with pytest.raises(UserError, match=rf"{choice}=array\(\[1, 2\]\) is not known"):
        model.add_weighted_adapter(["default"], [1.0], "sum", **{choice: np.array([1, 2])})


@torch.no_grad()
@pytest.mark.parametrize(
    "weights", [(2, 10**20), np.array([2.0, 1e20]), torch.tensor([2.0, 1e20]).double()]
)
def test_sequences_of_numbers_of_any_kind_are_weights(weights: Any) -> None:
    model = with_three_adapters(LINEAR)
    model.add_weighted_adapter(("wide", "thin"), weights, "sum")
    for name, delta in deltas(model, "sum").items():
        expected = 2 * deltas(model, "wide")[name] + 1e20 * deltas(model, "thin")[name]
        torch.testing.assert_close(delta, expected, rtol=1e-5, atol=1e14)


@torch.no_grad()
@every_kind
def test_a_sum_that_cancels_is_zero_and_not_what_rounding_leaves(kind: Kind) -> None:
    model = with_three_adapters(kind)
    lost = model.add_weighted_adapter(["wide", "thin", "wide"], [0.3, 0.0, -0.3], "none", "svd", 2)
    assert lost == 0.0
    assert not any(delta.any() for delta in deltas(model, "none").values())


@torch.no_grad()
def test_what_is_left_of_a_sum_that_nearly_cancels_is_kept() -> None:
    model = with_three_adapters(LINEAR)
    weights = [1.0, -1.0 + 1e-7]
    model.add_weighted_adapter(["wide", "wide"], weights, "little", "cat")
    expected = deltas(model, "wide")
    for name, delta in deltas(model, "little").items():
        torch.testing.assert_close(delta, 1e-7 * expected[name], rtol=1e-6, atol=1e-13)


@torch.no_grad()
def test_factors_of_very_different_sizes_are_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rounding of a sum grows with the products of its factors, not with the factors."""
    model = with_three_adapters(LINEAR)
    expected = {
        name: delta + deltas(model, "thin")[name] for name, delta in deltas(model, "wide").items()
    }
    plain = Lora2Layer.factors

    def unbalanced(layer: Lora2Layer, name: str, *dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        B, A = plain(layer, name, *dtype)
        scale = {"wide": 1e7, "thin": 1e-7}.get(name, 1.0)
        return scale * B, A / scale

    monkeypatch.setattr(Lora2Layer, "factors", unbalanced)
    model.add_weighted_adapter(["wide", "thin"], [1.0, 1.0], "both", "cat")
    for name, delta in deltas(model, "both").items():
        torch.testing.assert_close(delta, expected[name], rtol=1e-4, atol=1e-6)
