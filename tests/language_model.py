"""A tiny language model in a folder, and options of a run with it that takes a second."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from command_line import SMALL, fitting, lora2
from lora2.commands.train import resolve
from lora2.commands.train_parser import TrainParser
from lora2.training.prepare import PreparedRun, prepare

SPECIAL = ("<pad>", "<start>", "<end>")
TEMPLATE = (
    "{% for message in messages %}<start>{{ message['role'] }}:{{ message['content'] }}<end>"
    "{% endfor %}{% if add_generation_prompt %}<start>assistant:{% endif %}"
)
# As above, with what says which tokens are the assistant's.
MARKED_TEMPLATE = (
    "{% for message in messages %}<start>{{ message['role'] }}:"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] }}<end>{% endgeneration %}"
    "{% else %}{{ message['content'] }}<end>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<start>assistant:{% endif %}"
)
CHAT = [
    {"role": "user", "content": "A?"},
    {"role": "assistant", "content": "B."},
    {"role": "user", "content": "C?"},
    {"role": "assistant", "content": "D."},
]


def byte_tokenizer(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """A tokenizer of single bytes: it can read and write everything."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    # One merge, of bytes that no text has: a GGUF file cannot be without.
    pieces = [*SPECIAL, *alphabet, "Āā"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[("Ā", "ā")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=256,
        pad_token="<pad>",
        bos_token="<start>",
        eos_token="<end>",
    )
    fast.chat_template = template
    return fast


def save_language_model(folder: Path, template: str | None = TEMPLATE, layers: int = 2) -> Path:
    """Save a random Llama with a tokenizer of bytes."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=32,
        vocab_size=260,
        max_position_embeddings=256,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    byte_tokenizer(template).save_pretrained(folder)
    return folder


# Four optimizer steps an epoch, two epochs, pruning from step 2 to 5, as in `SMALL`.
TEXTS = {
    name: value
    for name, value in SMALL.items()
    if name not in ("train_sentences", "validation_sentences", "max_length", "baseline")
} | {
    "train_rows": 32,
    "validation_rows": 8,
    "exact_match_rows": 3,
    "max_new_tokens": 4,
    "max_length": 96,
    "per_device_eval_batch_size": 4,
}


def text_options(more: Mapping[str, object] | None = None, **changed: object) -> list[str]:
    """Options of a run of sft, or of another `objective`, that takes a second; None: left out.

    more: usual ones as those of TEXTS.
    """
    options = fitting(TEXTS | dict(more or {}), {"objective": "sft"} | changed)
    del options["objective"]
    return [f"--{name}={value}" for name, value in options.items() if value is not None]


def train_texts(
    model: Path, folder: Path, *more: str, objective: str = "sft", **changed: object
) -> int:
    """Run `lora2 train` with an objective of texts and return the exit code."""
    start = ("train", f"--objective={objective}", f"--model={model}", f"--output_dir={folder}")
    sizes = {"virtual_tokens": 3, "bottleneck_size": 3}
    return lora2(*start, *text_options(sizes, objective=objective, **changed), *more)


def prepared_run(
    model: Path, folder: Path, objective: str = "sft", **changed: object
) -> PreparedRun:
    """Do all of `lora2 train` with an objective of texts but the training."""
    options = [f"--model={model}", f"--output_dir={folder}", f"--objective={objective}"]
    chosen = text_options(objective=objective, **changed)
    return prepare(resolve(TrainParser(), [*options, *chosen]))


def write_rows(path: Path, *rows: dict) -> Path:
    """Write a file of JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
