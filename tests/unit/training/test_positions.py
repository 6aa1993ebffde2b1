"""How many tokens a model has positions for, by trying it out."""

import types
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from lora2.errors import UserError
from lora2.training.base_models.positions import longest_text, positions_of
from lora2.training.checks.positions import check_positions
from lora2.training.methods.registry import METHODS
from lora2.training.objectives.registry import OBJECTIVES

_SIZES = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "vocab_size": 40, "max_position_embeddings": 12,
}  # fmt: skip
_LIKE_GPT2 = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 12, "vocab_size": 40}
MODELS: dict[str, tuple[dict[str, Any], int | None]] = {
    "bert": (_SIZES, 12),
    # Two rows of the table are of no position.
    "roberta": (_SIZES | {"pad_token_id": 1}, 10),
    "gpt2": (_LIKE_GPT2, 12),
    "opt": (_SIZES | {"ffn_dim": 16, "word_embed_proj_dim": 16, "pad_token_id": 1}, 12),
    "llama": (_SIZES, None),
    "deberta-v2": (_SIZES | {"position_biased_input": False, "relative_attention": True}, None),
}


@pytest.mark.parametrize("model_type", MODELS)
def test_a_model_reads_so_many_tokens_and_no_more(model_type: str) -> None:
    fields, positions = MODELS[model_type]
    model = AutoModel.from_config(AutoConfig.for_model(model_type, **fields)).eval()
    assert positions_of(model) == positions
    length = positions or 3 * _SIZES["max_position_embeddings"]
    with torch.no_grad():
        model(input_ids=torch.full((1, length), 5))
        if positions is not None:
            with pytest.raises((IndexError, RuntimeError)):
                model(input_ids=torch.full((1, length + 1), 5))


def test_patches_of_images_are_no_positions_of_texts() -> None:
    images = {"image_size": 8, "patch_size": 4, "hidden_size": 16, "intermediate_size": 16,
              "num_hidden_layers": 1, "num_attention_heads": 2}  # fmt: skip
    fields = _SIZES | {"vision_config": images}
    git = AutoModelForCausalLM.from_config(AutoConfig.for_model("git", **fields))
    assert positions_of(git) == 12


def test_prompt_tuning_takes_positions() -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", **_LIKE_GPT2))
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    assert positions_of(get_peft_model(model, config)) == 9


def test_a_table_under_an_adapter_is_found() -> None:
    model = AutoModel.from_config(AutoConfig.for_model("gpt2", **_LIKE_GPT2))
    config = LoraConfig(r=2, target_modules=["wpe"])
    assert positions_of(get_peft_model(model, config)) == 12


@pytest.mark.parametrize(("model_type", "longest"), [("roberta", 10), ("llama", 12), ("bert", 12)])
def test_the_longest_text_is_that_of_the_table_and_of_the_configuration(
    model_type: str, longest: int
) -> None:
    fields, _ = MODELS[model_type]
    assert (
        longest_text(AutoModel.from_config(AutoConfig.for_model(model_type, **fields))) == longest
    )


def test_virtual_tokens_have_no_position_in_the_unused_rows_of_a_table() -> None:
    model = AutoModel.from_config(AutoConfig.for_model("roberta", **MODELS["roberta"][0]))
    checked = METHODS["prompt"], OBJECTIVES["classification"]
    base = types.SimpleNamespace(model=model)
    fits, too_long = (
        types.SimpleNamespace(
            data=types.SimpleNamespace(max_length=length), adapter={"virtual_tokens": 3}
        )
        for length in (7, 8)
    )
    check_positions(*checked, fits, base)
    with pytest.raises(UserError, match="virtual_tokens=3 and max_length=8 are more than the 10"):
        check_positions(*checked, too_long, base)
