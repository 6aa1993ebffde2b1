"""Small random models of transformers' model types, made from their configurations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.models.auto import modeling_auto

# The first class that a model type has is the one that is built.
KINDS = {
    "text": (
        "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
        "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES", "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    ),
    "vision": ("MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",),
    "speech": (
        "MODEL_FOR_CTC_MAPPING_NAMES", "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES",
        "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES",
    ),
}  # fmt: skip
# Names of fields of configurations, and a small value of each.
_SMALL: Mapping[int, tuple[str, ...]] = {
    2: (
        "num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers",
        "decoder_layers", "num_decoder_layers", "num_encoder_layers", "num_key_value_heads",
        "num_experts_per_tok", "moe_topk", "top_k", "n_group", "topk_group",
        "num_feat_extract_layers", "num_kv_heads", "num_codebooks", "moe_top_k", "moe_k",
    ),
    3: ("conv_depthwise_kernel_size",),
    4: (
        "num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads",
        "decoder_attention_heads", "num_experts", "num_local_experts", "n_routed_experts",
        "moe_num_experts", "linear_num_value_heads", "linear_num_key_heads",
        "num_image_tokens", "conv_kernel_size",
    ),
    8: (
        "head_dim", "d_kv", "d_head", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim",
        "kv_lora_rank", "q_lora_rank", "patch_size", "state_size", "mamba_d_state", "mamba_d_head",
        "linear_key_head_dim", "linear_value_head_dim", "num_mel_bins", "attention_head_size",
        "kv_channels", "time_step_rank", "rotary_dim", "mamba_n_heads", "sliding_window",
        "attention_window",
    ),
    16: ("moe_intermediate_size", "shared_expert_intermediate_size", "num_conv_pos_embeddings"),
    32: (
        "hidden_size", "d_model", "n_embd", "dim", "embed_dim", "hidden_dim", "d_embed", "emb_dim",
        "embedding_size", "word_embed_proj_dim", "model_dim", "lru_width", "cross_attention_dim",
        "intermediate_size", "ffn_dim", "d_ff", "n_inner", "encoder_ffn_dim", "decoder_ffn_dim",
        "ffn_hidden_size", "d_inner", "hidden_dim", "image_size", "conv_dim", "mlp_dim",
        "decoder_hidden_size", "attention_hidden_size", "feed_forward_size", "projection_dim",
    ),
    64: (
        "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_source_positions",
        "max_target_positions", "max_sequence_length", "vocab_size", "vocab_size_per_layer_input",
    ),
}  # fmt: skip
_SIZES = {name: size for size, names in _SMALL.items() for name in names}
# Where these small numbers do not fit each other, others are tried.
_VARIANTS: tuple[Mapping[str, Any], ...] = (
    {}, {"num_key_value_heads": 4}, {"num_hidden_layers": 4}, {"num_hidden_layers": 8},
    {"num_heads": 8}, {"head_dim": None},
)  # fmt: skip
_TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "decoder_start_token_id": 1}
_MOST_PARAMETERS = 8_000_000


def model_types() -> Iterator[tuple[str, str, str]]:
    """Yield kind, model type and class, each type once."""
    seen = set()
    for kind, mappings in KINDS.items():
        for mapping in mappings:
            for model_type, names in getattr(modeling_auto, mapping).items():
                name = names if isinstance(names, str) else names[0]
                if model_type not in seen:
                    seen.add(model_type)
                    yield kind, model_type, name


def tiny_model(architecture: str, kind: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """Return a small random model in evaluation mode, and inputs that it takes.

    Raises:
        ValueError: it is not small, or computes something else each time.
    """
    failure: Exception | None = None
    for variant in _VARIANTS:
        try:
            return _tiny_model(architecture, kind, variant)
        except TimeoutError:
            raise
        except Exception as error:
            # The first says most.
            failure = failure or error
    assert failure is not None
    raise failure


def _tiny_model(
    architecture: str, kind: str, variant: Mapping[str, Any]
) -> tuple[nn.Module, dict[str, Tensor]]:
    model_class = getattr(transformers, architecture)
    torch.manual_seed(0)
    model = model_class(tiny_config(model_class.config_class, variant)).eval()
    count = sum(parameter.numel() for parameter in model.parameters())
    if count > _MOST_PARAMETERS:
        raise ValueError(f"{count:,} parameters")
    for parameter in model.parameters():
        if parameter.is_floating_point() and not parameter.isfinite().all():
            nn.init.normal_(parameter, std=0.02)
    last: Exception | None = None
    for inputs in inputs_for(kind, model):
        try:
            first, second = (outputs(model, inputs) for _ in range(2))
        except Exception as error:
            last = error
            continue
        if not torch.equal(first, second):
            raise ValueError("computes something else each time")
        if not first.isfinite().all():
            raise ValueError("computes NaN or infinity")
        return model, inputs
    raise ValueError(f"takes none of the inputs tried: {last}") from last


def tiny_config(config_class: Any, variant: Mapping[str, Any]) -> Any:
    """Return a configuration with small numbers in its fields, and in those of its parts."""
    usual = config_class()
    fields: dict[str, Any] = {}
    for name, value in vars(usual).items():
        if name in getattr(config_class, "sub_configs", {}):
            if value is not None:
                fields[name] = tiny_config(type(value), variant).to_dict()
        elif name in variant:
            fields[name] = variant[name]
        elif name == "use_cache":
            fields[name] = False
        elif name in _TOKENS and isinstance(value, int):
            fields[name] = _TOKENS[name]
        elif name in _SIZES and isinstance(value, int) and not isinstance(value, bool):
            fields[name] = min(value, _SIZES[name])
        elif name == "attention_types":
            fields[name] = [[["global", "local"], 1]]
        elif name == "conv_dim" and not isinstance(value, int):
            fields[name] = (32, 32)
        elif name in ("conv_kernel", "conv_stride") and not isinstance(value, int):
            fields[name] = tuple(value[:2])
        elif name == "depths":
            fields[name] = [1] * len(value)
        elif name in ("hidden_sizes", "embed_dims", "encoder_hidden_sizes") and value:
            fields[name] = [8 * 2**position for position in range(len(value))]
    return config_class(**fields)


def inputs_for(kind: str, model: Any) -> Iterator[dict[str, Tensor]]:
    """Yield inputs to try."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(3, 50, (2, 8), generator=generator)
    if kind == "text":
        yield {"input_ids": tokens}
        yield {"input_ids": tokens, "decoder_input_ids": tokens}
        return
    if kind == "vision":
        for size in (32, 64, 224):
            yield {"pixel_values": torch.randn(2, 3, size, size, generator=generator)}
        return
    sound = torch.randn(2, 4000, generator=generator)
    decoder = {"decoder_input_ids": tokens}
    yield {"input_values": sound}
    yield {"input_values": sound} | decoder
    bins = getattr(model.config, "num_mel_bins", 80)
    for length in (32, 128, 3000):
        features = torch.randn(2, length, bins, generator=generator)
        for shaped in (features, features.mT.contiguous()):
            yield {"input_features": shaped}
            yield {"input_features": shaped} | decoder
            yield {"input_values": shaped}


def outputs(model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return what a model computes."""
    with torch.no_grad():
        return computed(model, inputs)


def computed(model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return what a model computes, with its graph."""
    result = model(**inputs)
    held = result.values() if isinstance(result, Mapping) else result
    floating = (t for t in held if isinstance(t, Tensor) and t.is_floating_point())
    computed: Tensor = result["logits"] if "logits" in result else next(floating)
    return computed.float()
