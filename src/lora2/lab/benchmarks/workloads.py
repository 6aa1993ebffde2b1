"""What is trained in a benchmark: randomly initialised models of real sizes, and random batches.

The models have no dropout, so every method computes with the same numbers and none pays for a
random generator. Random weights serve: the time of a step does not depend on their values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from lora2.support.half_precision import SLOW_ON_CPU
from lora2.training.base_models.architectures import ARCHITECTURES

Batch = dict[str, Tensor]

_SEED = 0
_AUTO_CLASSES = {
    "sequence_classification": AutoModelForSequenceClassification,
    "causal_lm": AutoModelForCausalLM,
}
_CLASSIFIER = {
    # Otherwise the first step finds it out, and a compiled model is compiled again.
    "problem_type": "single_label_classification",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "pooler_dropout": 0.0,
}


@dataclass(frozen=True)
class BatchSize:
    """Rows of a batch, and tokens of a row."""

    batch_size: int
    length: int


@dataclass(frozen=True)
class Workload:
    """A model and the batch it is trained on; all of it is plain data, so JSON can carry it.

    Attributes:
        name: as users write it.
        label: as tables print it.
        task: what its head computes.
        config: fields of its transformers config, `model_type` among them.
        head: names of the modules that train with every method.
        matrices_per_layer: how many matrices of a layer are adapted, all there are.
        sizes: batch by "device dtype". On the CPU a step then takes one to three seconds on two
            cores; "slow" is for a CPU without matrix kernels for the dtype.
        parameters: names of weights of experts that are adapted in addition to modules.
    """

    name: str
    label: str
    task: Literal["sequence_classification", "causal_lm"]
    config: Mapping[str, Any]
    head: tuple[str, ...]
    matrices_per_layer: int
    sizes: Mapping[str, BatchSize] = field(default_factory=dict)
    parameters: tuple[str, ...] = ()

    @property
    def model_type(self) -> str:
        """The transformers name of the architecture."""
        return str(self.config["model_type"])

    @property
    def layers(self) -> int:
        """Number of transformer layers."""
        return int(self.config["num_hidden_layers"])

    @property
    def longest(self) -> int:
        """Tokens that a row may have."""
        return int(self.config["max_position_embeddings"])

    def size(self, device: str, dtype: str) -> BatchSize:
        """The batch size unless the user gives another."""
        slow = device == "cpu" and getattr(torch, dtype) in SLOW_ON_CPU
        return self.sizes[f"slow {device} {dtype}" if slow else f"{device} {dtype}"]

    def build(self, dtype: str, device: str) -> PreTrainedModel:
        """Return the model in training mode, frozen but for its head."""
        torch.manual_seed(_SEED)
        config = AutoConfig.for_model(**self.config)
        with torch.device(device):
            model = _AUTO_CLASSES[self.task].from_config(config, dtype=getattr(torch, dtype))
        model.requires_grad_(False)
        for name in self.head:
            model.get_submodule(name).requires_grad_(True)
        return model.train()

    def batch(self, size: BatchSize, device: str) -> Batch:
        """Return a random batch: input_ids and attention_mask [batch, length], and labels."""
        generator = torch.Generator().manual_seed(_SEED)
        shape = (size.batch_size, size.length)
        input_ids = torch.randint(self.config["vocab_size"], shape, generator=generator)
        if self.task == "causal_lm":
            labels = input_ids
        else:
            labels = torch.randint(2, shape[:1], generator=generator)
        batch = {
            "input_ids": input_ids,
            "attention_mask": torch.ones_like(input_ids),
            "labels": labels,
        }
        return {name: tensor.to(device) for name, tensor in batch.items()}


def _sizes(cpu: tuple[int, int], slow: tuple[int, int], cuda: tuple[int, int]) -> Any:
    return {
        "cpu float32": BatchSize(*cpu),
        "cpu bfloat16": BatchSize(*cpu),
        "slow cpu bfloat16": BatchSize(*slow),
        "cuda float32": BatchSize(*cuda),
        "cuda bfloat16": BatchSize(*cuda),
    }


def _llama(hidden: int, intermediate: int, layers: int, heads: int, **fields: int) -> Any:
    return {
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
        "use_cache": False,
        **fields,
    }


_ALL = (
    Workload(
        name="minilm",
        label="MiniLM-L6",
        task="sequence_classification",
        config={
            "model_type": "bert",
            "hidden_size": 384,
            "num_hidden_layers": 6,
            "num_attention_heads": 12,
            "intermediate_size": 1536,
            "vocab_size": 30522,
            "max_position_embeddings": 512,
            **_CLASSIFIER,
        },
        head=("classifier",),
        matrices_per_layer=6,
        sizes=_sizes((64, 64), (4, 32), (256, 128)),
    ),
    Workload(
        name="deberta",
        label="DeBERTaV3-base",
        task="sequence_classification",
        config=ARCHITECTURES["deberta-v3-base"] | _CLASSIFIER,
        # No checkpoint has its pooler either: it is as new as the classifier.
        head=("pooler", "classifier"),
        matrices_per_layer=6,
        sizes=_sizes((12, 64), (1, 16), (64, 128)),
    ),
    Workload(
        name="llama",
        label="Llama, 135M",
        task="causal_lm",
        # These are the sizes of SmolLM2-135M.
        config=_llama(576, 1536, 30, 9, num_key_value_heads=3, vocab_size=49152),
        head=("model.norm",),
        matrices_per_layer=7,
        sizes=_sizes((10, 64), (1, 16), (16, 512)),
    ),
    Workload(
        name="decoder-504",
        label="decoder, 504 matrices, hidden size 512",
        task="causal_lm",
        # It has 72 blocks of seven matrices, and is no wider, so that it fits into a desk's memory.
        config=_llama(512, 1376, 72, 8, num_key_value_heads=4, vocab_size=8192),
        head=("model.norm",),
        matrices_per_layer=7,
        sizes=_sizes((4, 64), (1, 16), (16, 512)),
    ),
    Workload(
        name="mixtral",
        label="mixture of 8 experts, hidden size 768",
        task="causal_lm",
        # It has two layers in the proportions of Mixtral 8x7B.
        config={
            **_llama(768, 2688, 2, 12, num_key_value_heads=3, vocab_size=8192),
            "model_type": "mixtral",
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
        },
        head=("model.norm",),
        # The attention has four matrices, and each expert two.
        matrices_per_layer=20,
        sizes=_sizes((4, 64), (1, 16), (16, 512)),
        parameters=("experts.gate_up_proj", "experts.down_proj"),
    ),
)

WORKLOADS: dict[str, Workload] = {workload.name: workload for workload in _ALL}
