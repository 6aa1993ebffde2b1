"""Default target modules by architecture (`model_type` of the transformers config)."""

import re
from collections.abc import Collection

# For encoders the paper's six matrices of a layer: query, key, value, attention output and both
# feed-forward ones (Table 4). "output.dense" names the attention output and the second
# feed-forward matrix at once. For all others: every linear layer of a block. Weights of experts are
# parameters and not modules, so of a mixture of experts these are the attention and what is dense.
_BERT_LIKE = ("query", "key", "value", "output.dense", "intermediate.dense")
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_LLAMA_LIKE = (*_ATTENTION, "gate_proj", "up_proj", "down_proj")
_BART_LIKE = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
_BLOOM_LIKE = ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")
_GPT2_LIKE = ("c_attn", "c_proj", "c_fc")
_T5_LIKE = ("q", "k", "v", "o")
_LATENT_ATTENTION = ("q_proj", "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj")

# The vision encoder of Gemma 4 has layers of other kinds by the same names, hence a pattern.
_GEMMA4 = r"(.*\.)?language_model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj"

DEFAULT_TARGET_MODULES: dict[str, list[str] | str] = {
    model_type: names if isinstance(names, str) else list(names)
    for names, model_types in (
        (
            _BERT_LIKE,
            (
                "bert", "roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "electra", "ernie",
                "layoutlm",
            ),
        ),
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
        (("query", "key", "value", "attention.dense", "ffn", "ffn_output"), ("albert",)),
        (("Wqkv", "Wo", "Wi"), ("modernbert",)),
        (_GPT2_LIKE, ("gpt2", "gpt_bigcode")),
        (
            _LLAMA_LIKE,
            (
                "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text",
                "gemma4_text", "olmo", "olmo2", "smollm3", "granite", "cohere", "stablelm",
                "exaone4", "eurobert", "nomic_bert",
                # In these models the shared experts are adapted, which are dense.
                "llama4_text", "qwen2_moe",
            ),
        ),
        (_ATTENTION, ("mixtral", "qwen3_moe", "gpt_oss")),
        ((*_LATENT_ATTENTION, "gate_proj", "up_proj", "down_proj"), ("deepseek_v2", "deepseek_v3")),
        (("qkv_proj", "o_proj", "gate_up_proj", "down_proj"), ("phi3",)),
        ((*_ATTENTION, "gate_up_proj", "down_proj"), ("glm", "glm4")),
        (("q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"), ("phi",)),
        ((*_ATTENTION, "c_fc", "c_proj"), ("starcoder2",)),
        ((*_ATTENTION, "up_proj", "down_proj"), ("nemotron_h",)),
        (_BLOOM_LIKE, ("bloom", "falcon", "gpt_neox")),
        (("q_proj", "k_proj", "v_proj", "out_proj", "fc_in", "fc_out"), ("gptj",)),
        (("qkv_proj", "out_proj", "fc_in", "fc_out"), ("codegen",)),
        (("q_proj", "k_proj", "v_proj", "out_proj", "c_fc", "c_proj"), ("gpt_neo",)),
        (("Wqkv", "out_proj", "up_proj", "down_proj"), ("mpt",)),
        (("key", "value", "receptance", "output"), ("rwkv",)),
        ((*_T5_LIKE, "wi", "wi_0", "wi_1", "wo"), ("t5", "mt5", "umt5")),
        (
            _BART_LIKE,
            (
                "bart", "mbart", "pegasus", "m2m_100", "marian", "opt", "whisper", "clip",
                "clip_text_model", "clip_vision_model", "siglip", "siglip_vision_model",
            ),
        ),
        (
            ("q_proj", "k_proj", "v_proj", "out_proj", "intermediate_dense", "output_dense"),
            ("wav2vec2", "hubert", "wavlm"),
        ),
        ((*_ATTENTION, "mlp.fc1", "mlp.fc2"), ("vit", "beit", "deit", "swin")),
        # Those with a dense output are the names of older versions of transformers.
        ((*_ATTENTION, "query", "key", "value", "output.dense", "mlp.fc1", "mlp.fc2"), ("dinov2",)),
        # These are the blocks of the vision encoder and of the language model.
        (
            (*_LLAMA_LIKE, "out_proj", "fc1", "fc2"),
            ("llava", "idefics3", "smolvlm", "paligemma", "gemma3"),
        ),
        ((*_LLAMA_LIKE, "mlp.fc1", "mlp.fc2"), ("llama4",)),
        (_GEMMA4, ("gemma4",)),
        # The language model is OPT or T5.
        (
            (
                *("qkv", "projection", "query", "key", "value", "output.dense"),
                *("intermediate_query.dense", "output_query.dense"),
                *_BART_LIKE, *_T5_LIKE, "wi", "wi_0", "wi_1", "wo",
            ),
            ("blip-2",),
        ),
    )
    for model_type in model_types
}  # fmt: skip

# These modules project a sub-layer's result back to the model's width, before it is added to
# the sub-layer's input.
SUBLAYER_OUTPUTS: dict[str, list[str]] = {
    model_type: list(names)
    for names, model_types in (
        # One name stands for the attention's output and the second feed-forward matrix.
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


def is_named(name: str, targets: Collection[str]) -> bool:
    """Whether PEFT takes the module or parameter of this full name for one of the targets."""
    return any(name == target or name.endswith(f".{target}") for target in targets)


def exact_targets(chosen: Collection[str], names: Collection[str]) -> list[str] | str:
    """Return target modules that choose just these full names of a model's `names`.

    PEFT also takes a module whose name ends in "." and a chosen one: then a regular expression.
    """
    endings = tuple(f".{name}" for name in chosen)
    if any(name.endswith(endings) and name not in chosen for name in names):
        return "|".join(re.escape(name) for name in sorted(chosen))
    return sorted(chosen)
