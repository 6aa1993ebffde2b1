"""A merged model whose tied modules no longer have one weight is saved with all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BartForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
)

from lora2 import Lora2Config, UserError, export_merged
from unit.models import difference
from unit.tiny_transformers import tiny_llama

pytestmark = [
    pytest.mark.filterwarnings("ignore:Model (has|with) `tie_word_embeddings=True`:UserWarning"),
    pytest.mark.filterwarnings("ignore:Input and output embeddings are no longer:UserWarning"),
    pytest.mark.filterwarnings("ignore:The merged checkpoint has no tokenizer"),
]
TOKENS = torch.tensor([[5, 6, 7, 8, 9, 2], [9, 8, 7, 6, 5, 2]])
SIZES = {"d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "vocab_size": 32}
LAYERS = {"encoder_layers": 1, "decoder_layers": 1}
HEADS = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}


def base_model(kind: type) -> Any:
    torch.manual_seed(0)
    if kind is BertForMaskedLM:
        sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
        model = kind(BertConfig(vocab_size=32, num_attention_heads=2, **sizes))
        # A tied one, too, which is zero in a new model.
        torch.nn.init.normal_(model.cls.predictions.bias)
        return model.eval()
    return kind(BartConfig(**SIZES, **LAYERS, **HEADS, max_position_embeddings=16)).eval()


def adapted(kind: type, make: type = Lora2Config, **fields: Any) -> PeftModel:
    start = {"init_lora_weights": False} if make is LoraConfig else {"init_weights": False}
    model = get_peft_model(base_model(kind), make(**start, **fields)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "modules_to_save" in name:
                parameter += torch.randn(parameter.shape)
    return model


@torch.no_grad()
def logits(model: Any) -> Tensor:
    return model(input_ids=TOKENS).logits


CASES = [
    (BartForConditionalGeneration, {"target_modules": ["lm_head"]}),
    (BartForConditionalGeneration, {"target_modules": ["shared"]}),
    (BartForConditionalGeneration, {"target_modules": ["encoder.embed_tokens"]}),
    (BartForConditionalGeneration, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    (BartForSequenceClassification, {"target_modules": ["shared"]}),
    (BartForSequenceClassification, {"target_modules": ["q_proj"], "modules_to_save": ["shared"]}),
    (BertForMaskedLM, {"target_modules": ["word_embeddings"]}),
]


@pytest.mark.parametrize(("kind", "fields"), CASES)
def test_merged_model_reloads_as_it_was(kind: Any, fields: dict[str, Any], tmp_path: Path) -> None:
    model = adapted(kind, **fields)
    expected = logits(model)

    merged = model.merge_and_unload()
    assert difference(logits(merged), expected) < 1e-5
    merged.save_pretrained(tmp_path)
    reloaded, info = kind.from_pretrained(tmp_path, output_loading_info=True)

    assert not info["missing_keys"]
    assert not reloaded.config.tie_word_embeddings
    assert difference(logits(reloaded.eval()), expected) < 1e-5


@pytest.mark.parametrize(("kind", "fields"), CASES[:1] + CASES[5:6])
def test_export_reloads_as_it_was(kind: Any, fields: dict[str, Any], tmp_path: Path) -> None:
    model = adapted(kind, **fields)
    expected = logits(model)

    export = export_merged(model, tmp_path / "merged", batch={"input_ids": TOKENS})

    assert difference(logits(export.model), expected) < 1e-5


def test_module_that_peft_trains_whole_is_exported(tmp_path: Path) -> None:
    fields = {"target_modules": ["q_proj"], "modules_to_save": ["shared"]}
    model = adapted(BartForSequenceClassification, LoraConfig, **fields)
    expected = logits(model)

    export = export_merged(model, tmp_path / "merged", batch={"input_ids": TOKENS})

    assert difference(logits(export.model), expected) < 1e-5


def test_ties_that_hold_stay() -> None:
    model = adapted(BartForConditionalGeneration, target_modules=["q_proj"])

    merged: Any = model.merge_and_unload()

    assert merged.config.tie_word_embeddings
    assert merged.lm_head.weight is merged.model.shared.weight


def test_copies_train_as_the_weight_did() -> None:
    model = adapted(BartForConditionalGeneration, target_modules=["lm_head"])

    merged: Any = model.merge_and_unload()

    modules = (merged.model.shared, merged.model.encoder.embed_tokens, merged.lm_head)
    assert len({module.weight.data_ptr() for module in modules}) == 3
    assert torch.equal(modules[0].weight, modules[1].weight)
    assert not modules[1].weight.requires_grad


def test_what_is_lost_and_no_wrong_advice_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = get_peft_model(tiny_llama(), Lora2Config(task_type="CAUSAL_LM", init_weights=False))
    save = type(model.get_base_model()).save_pretrained

    def save_another(merged: Any, *arguments: Any, **options: Any) -> None:
        with torch.no_grad():
            merged.lm_head.weight += 1
        save(merged, *arguments, **options)

    monkeypatch.setattr(type(model.get_base_model()), "save_pretrained", save_another)
    with pytest.raises(UserError, match=r"not kept\. The model in memory .* load both again"):
        export_merged(model, tmp_path / "merged")
