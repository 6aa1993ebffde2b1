"""Trained rows of tokens leave with an adapter, and come with one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from lora2 import export_lora, export_merged, import_lora
from lora2.errors import UserError
from unit.models import disturb
from unit.tiny_transformers import tiny_llama
from unit.tuners.base.test_token_rows import BOTH, DIFFERENT, ROWS, adapted, disturb_rows, logits

each = pytest.mark.parametrize(
    ("tied", "indices"), [(True, ROWS), (True, DIFFERENT), (False, BOTH)]
)


@each
@pytest.mark.parametrize("compact", [False, True])
def test_peft_alone_loads_an_exported_lora(
    tied: bool, indices: Any, compact: bool, tmp_path: Path
) -> None:
    model = adapted(tied, trainable_token_indices=indices)
    disturb(model)
    disturb_rows(model)
    done = export_lora(model, tmp_path / "lora", compact=compact)
    assert all("trainable_token_indices" in " ".join(said) for said in done.objections.values())
    base = tiny_llama(tie_word_embeddings=tied)
    exported = PeftModel.from_pretrained(base, tmp_path / "lora").eval()
    assert type(exported.peft_config["default"]) is LoraConfig
    torch.testing.assert_close(logits(exported), logits(model), atol=1e-5, rtol=1e-4)
    # And the way back.
    ours = import_lora(tiny_llama(tie_word_embeddings=tied), tmp_path / "lora").eval()
    assert ours.peft_config["default"].trainable_token_indices == indices
    torch.testing.assert_close(logits(ours), logits(model), atol=1e-5, rtol=1e-4)


def test_a_lora_that_peft_trained_comes_with_its_rows(tmp_path: Path) -> None:
    config = LoraConfig(target_modules=["q_proj"], trainable_token_indices=ROWS, r=2)
    model = get_peft_model(tiny_llama(tie_word_embeddings=True), config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.ones_like(parameter))
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    ours = import_lora(tiny_llama(tie_word_embeddings=True), tmp_path).eval()
    torch.testing.assert_close(logits(ours), logits(model), atol=1e-5, rtol=1e-4)


def test_a_base_model_without_the_rows_is_refused(tmp_path: Path) -> None:
    export_lora(adapted(), tmp_path / "lora")
    with pytest.raises(UserError, match="no token 5 among the 4 of "):
        import_lora(tiny_llama(tie_word_embeddings=True, vocab_size=4), tmp_path / "lora")


@pytest.mark.filterwarnings("ignore:The merged checkpoint has no tokenizer")
def test_a_merged_model_has_the_rows(tmp_path: Path) -> None:
    model = adapted()
    disturb_rows(model)
    expected = logits(model)
    done = export_merged(model, tmp_path / "merged")
    torch.testing.assert_close(logits(done.model), expected, atol=1e-5, rtol=1e-4)
    with pytest.raises(UserError, match="other rows each"):
        export_merged(adapted(trainable_token_indices=DIFFERENT), tmp_path / "other")
