"""Tiny random models of transformers, and a batch for the classifiers among them."""

from typing import Any

import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

# What the three encoders have in common: two layers of width 8, without dropout.
_ENCODER: dict[str, Any] = {
    "vocab_size": 30,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    # Random weights of the usual 0.02 would hardly depend on the input.
    "initializer_range": 0.3,
}


def tiny_bert(**fields: Any) -> BertForSequenceClassification:
    """A random BERT classifier with two layers of width 8, in evaluation mode."""
    defaults = {**_ENCODER, "max_position_embeddings": 16, "num_labels": 2}
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**(defaults | fields))).eval()


def bert_of_minilms_sizes() -> BertForSequenceClassification:
    """MiniLM-L6 without weights: on the meta device."""
    config = BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    with torch.device("meta"):
        return BertForSequenceClassification(config)


def tiny_roberta() -> RobertaForSequenceClassification:
    """A random RoBERTa classifier, whose head is made of several layers."""
    torch.manual_seed(0)
    config = RobertaConfig(**_ENCODER, max_position_embeddings=32)
    return RobertaForSequenceClassification(config).eval()


def tiny_deberta(**fields: Any) -> DebertaV2ForSequenceClassification:
    """A random DeBERTa-v2 classifier of the form of DeBERTaV3-base, two layers of width 8."""
    defaults = {
        **_ENCODER,
        "max_position_embeddings": 32,
        "type_vocab_size": 0,
        "relative_attention": True,
        "position_buckets": 8,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "pooler_dropout": 0.0,
    }
    torch.manual_seed(0)
    return DebertaV2ForSequenceClassification(DebertaV2Config(**(defaults | fields))).eval()


def tiny_llama(**fields: Any) -> LlamaForCausalLM:
    """A random Llama with two layers of width 8, in evaluation mode."""
    torch.manual_seed(0)
    return LlamaForCausalLM(_tiny_llama_config(fields)).eval()


def tiny_llama_classifier(**fields: Any) -> LlamaForSequenceClassification:
    """The same with a classification head in place of the language model's."""
    torch.manual_seed(0)
    return LlamaForSequenceClassification(_tiny_llama_config(fields)).eval()


def _tiny_llama_config(fields: dict[str, Any]) -> LlamaConfig:
    defaults = {
        "vocab_size": 30,
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 32,
        "initializer_range": 0.3,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return LlamaConfig(**(defaults | fields))


def bert_batch(size: int = 4, length: int = 6, seed: int = 0) -> dict[str, Tensor]:
    """Random input_ids and attention_mask [size, length] and labels [size]."""
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(3, 30, (size, length), generator=generator)
    # A rule that can be learnt, so that losses fall.
    return {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "labels": (input_ids.sum(1) % 2).long(),
    }


class Examples(torch.utils.data.Dataset):
    """The rows of a batch as a dataset."""

    def __init__(self, batch: dict[str, Tensor]) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return len(next(iter(self.batch.values())))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: tensor[index] for name, tensor in self.batch.items()}
