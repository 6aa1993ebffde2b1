"""What a model writes: the likeliest tokens, until its answer ends."""

from typing import Any

import pytest
import torch
from peft import PromptTuningConfig, get_peft_model
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

import lora2
from language_model import TEMPLATE, byte_tokenizer
from lora2.training.base_models.chat_templates import end_of_turn
from lora2.training.base_models.generation import generate

PROMPTS = ["ab", "a longer one"]
TURN = TEMPLATE.replace("<end>", "<turn>")
# What a generation_config.json may say.
OF_CHECKPOINTS = {
    "repetition_penalty": {"repetition_penalty": 1.8},
    "num_beams": {"num_beams": 3},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 1},
    "suppress_tokens": {"suppress_tokens": list(range(3, 130))},
    "forced_eos_token_id": {"forced_eos_token_id": 7},
    "num_return_sequences": {"num_return_sequences": 2, "do_sample": True},
    "min_p": {"do_sample": True, "min_p": 0.9},
    "typical_p": {"do_sample": True, "typical_p": 0.1},
    "top_p": {"do_sample": True, "top_p": 0.1, "temperature": 0.5},
}


def tiny_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 96}
    return LlamaForCausalLM(LlamaConfig(vocab_size=261, **sizes, **heads)).eval()


def with_lora2() -> Any:
    config = lora2.Lora2Config(task_type="CAUSAL_LM", k=2, init_r=2, target_r=2, init_weights=False)
    return get_peft_model(tiny_model(), config).eval()


def with_prompt() -> Any:
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    return get_peft_model(tiny_model(), config).eval()


@pytest.mark.parametrize("case", OF_CHECKPOINTS)
@pytest.mark.parametrize("make", [tiny_model, with_lora2, with_prompt])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_a_checkpoint_says_of_generation_changes_nothing(
    make: Any, case: str, temperature: float
) -> None:
    model, tokenizer = make(), byte_tokenizer()

    def written() -> list[str]:
        torch.manual_seed(1)
        found = generate(model, tokenizer, PROMPTS, max_new_tokens=12, temperature=temperature)
        return list(found)

    expected = written()
    base = model if make is tiny_model else model.get_base_model()
    own = base.generation_config
    own.update(**OF_CHECKPOINTS[case])
    assert written() == expected
    # An export writes it as it was.
    assert base.generation_config is own


@torch.no_grad()
def test_greedy_takes_the_likeliest_token() -> None:
    model, tokenizer = tiny_model(), byte_tokenizer()
    tokens = tokenizer("ab")["input_ids"]
    for _ in range(6):
        tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    (text,) = generate(model, tokenizer, ["ab"], max_new_tokens=6)
    assert text == tokenizer.decode(tokens[2:], skip_special_tokens=True)


def test_an_answer_ends_where_the_template_ends_a_turn() -> None:
    tokenizer = with_turn(TURN)
    model = tiny_model()
    follow(model, tokenizer, {":": "B", "B": "<turn>", "<turn>": "C", "C": "<end>"})
    (answer,) = generate(model, tokenizer, [[{"role": "user", "content": "A?"}]], max_new_tokens=6)
    assert answer == "B"
    # A bare text has no turns.
    assert list(generate(model, tokenizer, ["A:"], max_new_tokens=6)) == ["BC"]


TEMPLATES = {
    "an end token": (TEMPLATE, ["<end>"]),
    "another token": (TURN, ["<turn>"]),
    "after a blank": (TURN.replace("<turn>", " <turn>\n"), ["<turn>"]),
    "none": (TURN.replace("<turn>", ""), []),
    "text": (TURN.replace("<turn>", "\nuser:"), []),
    "a token after text": (TURN.replace("<turn>", "that was it<turn>"), []),
    "no answer": ("{{ messages[0]['content'] }}<turn>", []),
    "refused": ("{{ raise_exception('no') }}", []),
    "absent": (None, []),
}


@pytest.mark.parametrize("case", TEMPLATES)
def test_the_end_of_a_turn_is_a_special_token_right_after_an_answer(case: str) -> None:
    template, expected = TEMPLATES[case]
    tokenizer = with_turn(template)
    assert tokenizer.convert_ids_to_tokens(end_of_turn(tokenizer)) == expected


def with_turn(template: str | None) -> PreTrainedTokenizerBase:
    tokenizer = byte_tokenizer(template)
    tokenizer.add_tokens(["<turn>"], special_tokens=True)
    return tokenizer


def follow(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, after: dict[str, str]
) -> None:
    """Let a model write after a token the one that `after` names."""
    table = torch.zeros(261, dtype=torch.long)
    for token, following in after.items():
        table[tokenizer.convert_tokens_to_ids(token)] = tokenizer.convert_tokens_to_ids(following)

    def replace(_: Any, args: tuple[Tensor, ...], fields: dict[str, Any], output: Any) -> Any:
        output.logits = F.one_hot(table[fields["input_ids"]], 261).float()
        return output

    model.register_forward_hook(replace, with_kwargs=True)
