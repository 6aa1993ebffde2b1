"""Which LoRA² layer wraps which kind of base layer; a new kind is one class and one entry."""

from torch import nn
from transformers.pytorch_utils import Conv1D

from lora2.tuners.base.layers.attention import AttentionLayer
from lora2.tuners.base.layers.convolution import ConvolutionLayer
from lora2.tuners.base.layers.dispatch import LayerTypes
from lora2.tuners.base.layers.embedding import EmbeddingLayer
from lora2.tuners.base.layers.experts import ExpertMatrix
from lora2.tuners.lora2.layer import Lora2Layer
from lora2.tuners.lora2.linear import Lora2Linear


class Lora2MultiheadAttention(AttentionLayer, Lora2Layer):
    """An attention layer with LoRA² adapters."""


class Lora2Convolution(ConvolutionLayer, Lora2Layer):
    """A convolution with LoRA² adapters."""


class Lora2Embedding(EmbeddingLayer, Lora2Layer):
    """An embedding with LoRA² adapters."""


class Lora2ExpertMatrix(ExpertMatrix, Lora2Layer):
    """The matrix of one expert with LoRA² adapters."""


LAYER_TYPES: LayerTypes = {
    nn.Linear: Lora2Linear,
    Conv1D: Lora2Linear,
    nn.Embedding: Lora2Embedding,
    nn.Conv1d: Lora2Convolution,
    nn.Conv2d: Lora2Convolution,
    nn.Conv3d: Lora2Convolution,
    nn.MultiheadAttention: Lora2MultiheadAttention,
}
