"""A mixture of experts that TRL has asked for its router's logits writes all the same."""

import torch
from transformers import MixtralConfig, MixtralForCausalLM

from language_model import byte_tokenizer
from lora2.training.base_models.generation import generate
from lora2.training.base_models.router_logits import without_router_logits


def test_a_model_that_is_trained_with_router_logits_generates() -> None:
    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, num_local_experts=2, num_experts_per_tok=1,
        output_router_logits=True,
    )  # fmt: skip
    model = MixtralForCausalLM(config).eval()
    written = list(generate(model, tokenizer, ["ab", "a longer one"], max_new_tokens=3))
    assert len(written) == 2
    # The next training step needs them.
    assert model.config.output_router_logits is True
    with without_router_logits(model):
        assert model.config.output_router_logits is False
