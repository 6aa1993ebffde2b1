"""Architectures without their weights: sizes of known models, and what their matrices are called.

Sizes as published with microsoft/deberta-v3-base and FacebookAI/roberta-large.
"""

from __future__ import annotations

from typing import Any

from lora2.errors import UserError

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "deberta-v3-base": {
        "model_type": "deberta-v2",
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "vocab_size": 128100,
        "max_position_embeddings": 512,
        "type_vocab_size": 0,
        "layer_norm_eps": 1e-7,
        "relative_attention": True,
        "max_relative_positions": -1,
        "position_buckets": 256,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "pad_token_id": 0,
    },
    "roberta-large": {
        "model_type": "roberta",
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "vocab_size": 50265,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
        "pad_token_id": 1,
    },
}

HUB_NAMES = {
    "deberta-v3-base": "microsoft/deberta-v3-base",
    "roberta-large": "FacebookAI/roberta-large",
}
"""The hub's names of models of the known architectures, by their names in `ARCHITECTURES`."""

# The paper's names (Table 4) → module names, by model_type.
_BERT_LIKE = {
    "Q": "query",
    "K": "key",
    "V": "value",
    "O": "attention.output.dense",
    "F1": "intermediate.dense",
    # Without its layer's number this would name the attention output too.
    "F2": r"layer\.\d+\.output\.dense",
}
MATRIX_NAMES: dict[str, dict[str, str]] = {
    "bert": _BERT_LIKE,
    "roberta": _BERT_LIKE,
    "xlm-roberta": _BERT_LIKE,
    "camembert": _BERT_LIKE,
    "electra": _BERT_LIKE,
    "deberta-v2": _BERT_LIKE | {"Q": "query_proj", "K": "key_proj", "V": "value_proj"},
    "distilbert": {
        "Q": "q_lin", "K": "k_lin", "V": "v_lin", "O": "out_lin", "F1": "lin1", "F2": "lin2",
    },
    "llama": {"Q": "q_proj", "K": "k_proj", "V": "v_proj", "O": "o_proj"},
    "mistral": {"Q": "q_proj", "K": "k_proj", "V": "v_proj", "O": "o_proj"},
    "qwen2": {"Q": "q_proj", "K": "k_proj", "V": "v_proj", "O": "o_proj"},
    "qwen3": {"Q": "q_proj", "K": "k_proj", "V": "v_proj", "O": "o_proj"},
}  # fmt: skip


def target_pattern(model_type: str, weights: str) -> str | None:
    """Return a regular expression for matrices by the paper's names; None for "all".

    Raises:
        UserError: a name that the architecture does not have.
    """
    if weights.lower() == "all":
        return None
    names = MATRIX_NAMES.get(model_type)
    if names is None:
        raise UserError(
            f"weights: the matrices of {model_type} have no short names here; write all, or "
            "--target_modules with the names of its modules."
        )
    wanted = [name.strip().upper() for name in weights.split(",")]
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise UserError(
            f"weights: {unknown[0]!r} is none of {', '.join(names)} (of {model_type}); write some "
            "of them with commas, or all."
        )
    return rf"(.*\.)?({'|'.join(names[name] for name in wanted)})"
