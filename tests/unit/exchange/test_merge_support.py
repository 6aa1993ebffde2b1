"""Whether PEFT merges an adapter is asked of PEFT, and the model stays as it was."""

from typing import Any

import pytest
import torch
from peft import AdaptionPromptConfig, LoraConfig, VeraConfig, get_peft_model
from peft.tuners.lily import LilyConfig

from lora2 import Lora2Config, UserError
from lora2.exchange.merge_support import reason_against_merging
from lora2.exchange.merged import export_merged
from unit.tiny_transformers import tiny_bert, tiny_llama

TARGETS = {"target_modules": ["query"], "task_type": "SEQ_CLS"}


@pytest.mark.parametrize(
    "config", [LoraConfig(**TARGETS), Lora2Config(**TARGETS), VeraConfig(r=4, **TARGETS)],
    ids=lambda config: config.peft_type.value,
)  # fmt: skip
def test_what_merges_has_no_reason_against_it_and_stays_unmerged(config: Any) -> None:
    model = get_peft_model(tiny_bert(), config)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert reason_against_merging(model) is None
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_method_that_does_not_merge_gives_pefts_reason() -> None:
    lily = get_peft_model(tiny_bert(), LilyConfig(r=2, **TARGETS))
    assert reason_against_merging(lily) == (
        "NotImplementedError: This method is not supported for Lily"
    )
    prompt = AdaptionPromptConfig(adapter_len=2, adapter_layers=1, task_type="CAUSAL_LM")
    reason = reason_against_merging(get_peft_model(tiny_llama(), prompt))
    assert reason == "PEFT has no merge for ADAPTION_PROMPT"


def test_export_of_what_does_not_merge_is_one_sentence_and_writes_nothing(tmp_path) -> None:
    lily = get_peft_model(tiny_bert(), LilyConfig(r=2, **TARGETS))
    with pytest.raises(UserError, match=r"model: PEFT cannot merge LILY .*not supported for Lily"):
        export_merged(lily, tmp_path / "merged")
    assert not list(tmp_path.iterdir())
