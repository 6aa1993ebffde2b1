"""nn.MultiheadAttention: which weights its adapters change, and by what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn

from lora2 import Lora2Config
from unit.models import AttentionModel, disturb, layers_of, sequences

FORMS: dict[str, dict[str, Any]] = {
    "one_weight": {},
    "three_weights": {"kdim": 4, "vdim": 5},
    "three_weights_no_bias": {"kdim": 4, "bias": False, "batch_first": True},
}
every_form = pytest.mark.parametrize("form", FORMS)


def adapted(form: str = "one_weight", **fields: Any) -> PeftModel:
    torch.manual_seed(0)
    config = Lora2Config(**({"target_modules": ["attn"], "k": 2, "init_r": 3} | fields))
    model = get_peft_model(AttentionModel(**FORMS[form]), config).eval()
    disturb(model)
    return model


@torch.no_grad()
@every_form
def test_every_projection_is_changed_by_its_rows_of_b_and_columns_of_a(form: str) -> None:
    model, x = adapted(form), sequences()
    layers = {name.rpartition(".")[2]: layer for name, layer in layers_of(model).items()}
    (B, A), (B_out, A_out) = (layers[name].factors("default") for name in ("attn", "out_proj"))
    torch.manual_seed(0)
    plain = AttentionModel(**FORMS[form]).eval()
    attn = plain.attn
    if form == "one_weight":
        attn.in_proj_weight += B @ A
    else:
        attn.q_proj_weight += B[:6] @ A[:, :6]
        attn.k_proj_weight += B[6:12] @ A[:, 6 : 6 + attn.kdim]
        attn.v_proj_weight += B[12:] @ A[:, 6 + attn.kdim :]
    attn.out_proj.weight += B_out @ A_out
    torch.testing.assert_close(model(x), plain(x), atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("batch_first", [False, True])
def test_torchs_fast_path_computes_with_the_adapters(batch_first: bool) -> None:
    torch.manual_seed(0)
    base = nn.ModuleDict({"attn": nn.MultiheadAttention(6, 2, batch_first=batch_first)})
    model = get_peft_model(base, Lora2Config(target_modules=["attn"], k=2, init_weights=False))
    layer, x = model.base_model.model["attn"], sequences()
    trained = layer.train()(x, x, x, need_weights=False)[0]
    torch.testing.assert_close(layer.eval()(x, x, x, need_weights=False)[0], trained)
    model.merge_adapter()
    torch.testing.assert_close(layer(x, x, x, need_weights=False)[0], trained, atol=1e-5, rtol=1e-5)


def test_out_proj_is_adapted_once_where_it_is_a_target_too() -> None:
    pattern = {"attn.base_layer.out_proj": 1}
    model = adapted(target_modules=["attn", "out_proj"], k_pattern=pattern)
    assert [layer.sizes_of("default")[0] for layer in layers_of(model).values()] == [2, 1]
    names = ["attn", "attn.base_layer.out_proj"]
    assert [name.removeprefix("base_model.model.") for name in layers_of(model)] == names
    model.add_adapter("other", Lora2Config(target_modules=["attn", "out_proj"], k=1))
    assert all(layer.has_adapter("other") for layer in layers_of(model).values())
    assert len(layers_of(model)) == 2


def test_patterns_name_either_layer(tmp_path: Path) -> None:
    model = adapted(k_pattern={"attn": 3, "attn.base_layer.out_proj": 1})
    assert [layer.sizes_of("default")[0] for layer in layers_of(model).values()] == [3, 1]
    model.save_pretrained(tmp_path)
    torch.manual_seed(0)
    reloaded = PeftModel.from_pretrained(AttentionModel(), tmp_path).eval()
    torch.testing.assert_close(reloaded(sequences()), model(sequences()), atol=1e-6, rtol=1e-6)


def test_dropout_is_said_to_have_no_effect() -> None:
    with pytest.warns(UserWarning, match=r"lora_dropout=0.5 has no effect in nn.MultiheadAtt"):
        model = adapted(lora_dropout=0.5).train()
    assert torch.equal(model(sequences()), model(sequences()))


@torch.no_grad()
def test_layers_that_are_merged_or_disabled_by_themselves_count_for_themselves() -> None:
    model, x = adapted(), sequences()
    attn, out_proj = layers_of(model).values()
    expected = model(x)
    out_proj.merge()
    torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)
    attn.merge()
    torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)
    with model.disable_adapter():
        torch.manual_seed(0)
        torch.testing.assert_close(model(x), AttentionModel().eval()(x), atol=1e-5, rtol=1e-5)
    assert not attn.merged
    assert not out_proj.merged


def test_mask_weights_and_keywords_reach_torch() -> None:
    model = adapted()
    attn = model.base_model.model.attn
    x = sequences().requires_grad_()
    mask = torch.triu(torch.ones(3, 3, dtype=torch.bool), 1)
    output, weights = attn(query=x, key=x, value=x, attn_mask=mask, average_attn_weights=False)
    assert weights.shape == (4, 3, 3, 3)
    assert not weights.triu(1).any()
    output.sum().backward()
    assert isinstance(x.grad, Tensor)
