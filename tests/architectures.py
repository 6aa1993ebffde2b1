"""Tiny models of many architectures as data: their class, and the fields of their configuration."""

from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

_ENCODER = {
    "vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 16, "max_position_embeddings": 32,
}  # fmt: skip
_T5 = {
    "vocab_size": 64, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2,
    "decoder_start_token_id": 0,
}  # fmt: skip
_BART = {
    "vocab_size": 64, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1,
    "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16, "max_position_embeddings": 32,
}  # fmt: skip
_IMAGE = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "image_size": 16, "patch_size": 8,
}  # fmt: skip
_SOUND = {
    "vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 16, "conv_dim": (8, 8), "conv_stride": (4, 4), "conv_kernel": (8, 4),
    "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
_WHISPER = _BART | {
    "max_source_positions": 20, "max_target_positions": 20, "num_mel_bins": 8, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip
_TEXT_TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


@dataclass(frozen=True)
class Architecture:
    """How to make a tiny random model; the name of its configuration's class and its fields."""

    model: str
    config: str
    fields: dict[str, Any] = field(default_factory=dict)

    def build(self) -> PreTrainedModel:
        """The model, in evaluation mode."""
        torch.manual_seed(0)
        config = getattr(transformers, self.config)(**self.fields)
        return getattr(transformers, self.model)(config).eval()


ARCHITECTURES = [
    Architecture("BertForMultipleChoice", "BertConfig", _ENCODER),
    Architecture("BertForTokenClassification", "BertConfig", _ENCODER),
    Architecture("BertForQuestionAnswering", "BertConfig", _ENCODER),
    # No eos_token_id and no pad_token_id in its configuration.
    Architecture(
        "FunnelForSequenceClassification",
        "FunnelConfig",
        {"vocab_size": 64, "block_sizes": [1, 1], "num_decoder_layers": 1, "d_model": 16}
        | {"n_head": 2, "d_head": 8, "d_inner": 16},
    ),
    Architecture(
        "LlamaForSequenceClassification", "LlamaConfig", _ENCODER | {"pad_token_id": None}
    ),
    Architecture("T5ForSequenceClassification", "T5Config", _T5),
    Architecture("T5ForConditionalGeneration", "T5Config", _T5),
    Architecture("BartForSequenceClassification", "BartConfig", _BART),
    Architecture("ViTForImageClassification", "ViTConfig", _IMAGE),
    # It masks patches at random, in evaluation too.
    Architecture(
        "ViTMAEForPreTraining",
        "ViTMAEConfig",
        _IMAGE
        | {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1}
        | {"decoder_num_attention_heads": 2, "decoder_intermediate_size": 16},
    ),
    Architecture(
        "VideoMAEForVideoClassification",
        "VideoMAEConfig",
        _IMAGE | {"num_frames": 4, "tubelet_size": 2},
    ),
    Architecture("Wav2Vec2ForSequenceClassification", "Wav2Vec2Config", _SOUND),
    Architecture("WhisperForConditionalGeneration", "WhisperConfig", _WHISPER),
    Architecture(
        "CLIPModel",
        "CLIPConfig",
        {"text_config": _ENCODER | _TEXT_TOKENS, "vision_config": _IMAGE, "projection_dim": 8},
    ),
]
