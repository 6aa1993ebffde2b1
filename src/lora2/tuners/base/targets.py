"""Default target modules by architecture (`model_type` of the transformers config)."""

import re
from collections.abc import Collection

# For encoders the paper's six matrices of a layer: query, key, value, attention output and both
# feed-forward ones (Table 4). "output.dense" names the attention output and the second
# feed-forward matrix at once. For decoders: every linear layer of a block.
_BERT_LIKE = ("query", "key", "value", "output.dense", "intermediate.dense")
_LLAMA_LIKE = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

DEFAULT_TARGET_MODULES: dict[str, list[str]] = {
    model_type: list(names)
    for names, model_types in (
        (_BERT_LIKE, ("bert", "roberta", "xlm-roberta", "camembert", "electra")),
        (("in_proj", "output.dense", "intermediate.dense"), ("deberta",)),
        (
            ("query_proj", "key_proj", "value_proj", "output.dense", "intermediate.dense"),
            ("deberta-v2",),
        ),
        (
            ("attn.q", "attn.k", "attn.v", "attn.o", "intermediate.dense", "output.dense"),
            ("mpnet",),
        ),
        (("q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"), ("distilbert",)),
        (("c_attn", "c_proj", "c_fc"), ("gpt2",)),
        (_LLAMA_LIKE, ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2")),
        (
            ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2"),
            ("vit",),
        ),
    )
    for model_type in model_types
}

# What projects a sub-layer's result back to the model's width, before it is added to its input.
SUBLAYER_OUTPUTS: dict[str, list[str]] = {
    model_type: list(names)
    for names, model_types in (
        # Attention output and second feed-forward matrix at once.
        (
            ("output.dense",),
            ("bert", "roberta", "xlm-roberta", "camembert", "electra", "deberta", "deberta-v2"),
        ),
        (("attn.o", "output.dense"), ("mpnet",)),
        (("out_lin", "lin2"), ("distilbert",)),
        (("o_proj", "down_proj"), ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2")),
        (("o_proj", "mlp.fc2"), ("vit",)),
    )
    for model_type in model_types
}


def exact_targets(chosen: Collection[str], names: Collection[str]) -> list[str] | str:
    """Return target modules that choose just these full names of a model's `names`.

    PEFT also takes a module whose name ends in "." and a chosen one: then a regular expression.
    """
    endings = tuple(f".{name}" for name in chosen)
    if any(name.endswith(endings) and name not in chosen for name in names):
        return "|".join(re.escape(name) for name in sorted(chosen))
    return sorted(chosen)
