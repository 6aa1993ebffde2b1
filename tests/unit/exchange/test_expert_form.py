"""Weights of experts as PEFT's LoRA, there and back."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from lora2 import UserError, export_lora, export_merged, import_lora, truncate_adapter
from lora2.exchange.expert_form import factors_by_matrix
from unit.mixtures import DEEPSEEK, GPT_OSS, MIXTRAL, MIXTURES, PARAMETERS, Mixture, logits
from unit.models import difference, layers_of

# PEFT compares patterns with names of modules alone.
pytestmark = pytest.mark.filterwarnings("ignore:The following:RuntimeWarning")


def fields_of(mixture: Mixture) -> dict[str, Any]:
    """What to adapt, by names that LoRA and LoRA² take alike."""
    if mixture is GPT_OSS:
        return {"target_modules": "all-linear", "target_parameters": PARAMETERS}
    if mixture is DEEPSEEK:
        # Not its router: transformers 5.9 reads an attribute that PEFT 0.21.0 does not pass on.
        return {"target_modules": ["o_proj", *mixture.old_names], "target_parameters": None}
    return {"target_modules": "all-linear", "target_parameters": None}


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("mixture", MIXTURES, ids=lambda mixture: mixture.name)
def test_plain_peft_computes_the_same_with_an_exported_lora(mixture, compact, tmp_path: Path):
    # A small change, so that float32 rounds the logits alike.
    model = mixture.adapted(lora_alpha=1.0, **fields_of(mixture))
    truncate_adapter(model, rank=1.5)
    assert len({layer.sizes_of("default") for layer in layers_of(model).values()}) > 2
    done = export_lora(model, tmp_path / "lora", compact=compact)
    loaded = PeftModel.from_pretrained(mixture.model(), tmp_path / "lora").eval()
    assert difference(logits(loaded), logits(model)) < 1e-5
    assert done.ranks.keys() == {
        name.removeprefix("base_model.model.") for name in layers_of(model)
    }


def test_one_parameter_of_a_module_is_exported(tmp_path: Path):
    model = MIXTRAL.adapted(target_parameters=["experts.gate_up_proj"])
    export_lora(model, tmp_path / "lora")
    loaded = PeftModel.from_pretrained(MIXTRAL.model(), tmp_path / "lora").eval()
    assert difference(logits(loaded), logits(model)) < 1e-5


def test_a_linear_layer_that_is_named_by_its_weight_is_exported(tmp_path: Path):
    model = MIXTRAL.adapted(target_modules=["v_proj"], target_parameters=["q_proj.weight"])
    done = export_lora(model, tmp_path / "lora")
    assert any("q_proj.matrices.weight.0" in name for name in done.ranks)
    for load in (PeftModel.from_pretrained, import_lora):
        loaded = load(MIXTRAL.model(), tmp_path / "lora").eval()
        assert difference(logits(loaded), logits(model)) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("mixture", MIXTURES, ids=lambda mixture: mixture.name)
def test_experts_of_a_model_in_half_precision_are_exported_and_imported(
    mixture, dtype: torch.dtype, tmp_path: Path
):
    model = mixture.adapted(lora_alpha=1.0, **fields_of(mixture))
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
    # torch's own kernels do not take experts as small as these in half precision.
    model.get_base_model().set_experts_implementation("eager")
    export_lora(model, tmp_path / "lora")
    again = layers_of(import_lora(mixture.model().to(dtype), tmp_path / "lora"))
    for name, layer in layers_of(model).items():
        expected = layer.get_delta_weight("default")
        assert difference(again[name].get_delta_weight("default"), expected) < 1e-5


def test_a_lora_whose_change_is_another_is_refused_with_what_to_do(tmp_path: Path, monkeypatch):
    def halved(name, wrapper):
        return {name: (B / 2, A) for name, (B, A) in factors_by_matrix(name, wrapper).items()}

    monkeypatch.setattr("lora2.exchange.verification.factors_by_matrix", halved)
    for dtype, advice in {
        torch.float32: "export the merged model instead",
        torch.bfloat16: "write it in float32",
    }.items():
        with pytest.raises(UserError, match=f"otherwise than the adapter does, .*; {advice}"):
            export_lora(MIXTRAL.adapted(), tmp_path / "lora", dtype=dtype)


def test_dense_layers_beside_experts_are_written_as_weights(tmp_path: Path):
    model = DEEPSEEK.adapted(target_modules=["down_proj"], target_parameters=[])
    export_lora(model, tmp_path / "lora")
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    assert config["target_parameters"] == ["down_proj.weight"]
    assert config["target_modules"] == []


def test_engines_are_not_said_to_serve_experts(tmp_path: Path):
    done = export_lora(MIXTRAL.adapted(), tmp_path / "lora")
    assert all(
        any("target_parameters" in each for each in found) for found in done.objections.values()
    )


@pytest.mark.filterwarnings("ignore:The merged checkpoint has no tokenizer")
@pytest.mark.parametrize("mixture", [MIXTRAL, GPT_OSS], ids=lambda mixture: mixture.name)
def test_a_merged_checkpoint_has_the_change_in_its_experts(mixture, tmp_path: Path):
    model = mixture.adapted()
    expected = logits(model)
    assert difference(logits(export_merged(model, tmp_path / "merged").model), expected) < 1e-5


@pytest.mark.parametrize("mixture", MIXTURES, ids=lambda mixture: mixture.name)
def test_a_lora_of_experts_is_imported(mixture, tmp_path: Path):
    torch.manual_seed(1)
    config = LoraConfig(r=2, init_lora_weights=False, **fields_of(mixture))
    lora = get_peft_model(mixture.model(), config).eval()
    lora.save_pretrained(tmp_path)
    model = import_lora(mixture.model(), tmp_path).eval()
    assert difference(logits(model), logits(lora)) < 1e-5


def test_an_exported_lora_is_imported_where_it_was(tmp_path: Path):
    model = DEEPSEEK.adapted(**fields_of(DEEPSEEK))
    export_lora(model, tmp_path / "lora", compact=True)
    again = layers_of(import_lora(DEEPSEEK.model(), tmp_path / "lora"))
    before = layers_of(model)
    assert again.keys() == before.keys()
    for name, layer in before.items():
        expected = layer.get_delta_weight("default")
        assert difference(again[name].get_delta_weight("default"), expected) < 1e-5


def test_pefts_own_conversion_refuses_experts():
    from peft import convert_to_lora

    with pytest.raises(TypeError, match="do not support LoRA conversion"):
        convert_to_lora(MIXTRAL.adapted(), 2)


def test_a_merged_adapter_is_not_exported(tmp_path: Path):
    model = MIXTRAL.adapted()
    model.merge_adapter()
    with pytest.raises(UserError, match="is merged: unmerge it"):
        export_lora(model, tmp_path / "lora")


def test_a_lora_that_peft_cannot_compute_with_is_not_kept(tmp_path: Path, monkeypatch):
    def fail(*args):
        raise AttributeError("'ParamWrapper' object has no attribute 'bias'")

    monkeypatch.setattr("lora2.exchange.lora.logits", fail)
    with pytest.raises(UserError, match=r"'bias'\); export the merged model \(--to merged\)"):
        export_lora(MIXTRAL.adapted(), tmp_path / "lora")
    assert not (tmp_path / "lora").exists()
