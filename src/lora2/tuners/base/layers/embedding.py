"""nn.Embedding, whose weight [vocabulary, width] plays the part of [d_out, d_in]."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora2.tuners.base.layers.adapted_layer import AdaptedLayer


def looks_up_more_than_rows(base: Any) -> bool:
    """Whether an embedding changes rows when it looks them up, other than by an `embed_scale`.

    It may look up other rows than its input says, as embeddings of positions do.
    """
    if base.max_norm is not None:
        return True
    is_plain = type(base).forward is nn.Embedding.forward
    return not is_plain and getattr(base, "embed_scale", None) is None


class EmbeddingLayer(AdaptedLayer):
    """An embedding with adapters: row i becomes W[i] + B[i] A.

    The orthonormal side is the width, so that the vocabulary side starts at 0 as in LoRA, and a
    token that never occurs never changes.
    """

    @staticmethod
    def shape_of(base: Any) -> tuple[int, int]:
        """(vocabulary, width)."""
        return base.num_embeddings, base.embedding_dim

    def activation_dtype(self, x: Tensor) -> torch.dtype:
        """The inputs are indices: the weight's dtype decides."""
        return self.weight.dtype

    def apply_factors(self, x: Tensor, B: Tensor, A: Tensor) -> Tensor:
        """Indices x [...] → [..., width]."""
        base: Any = self.get_base_layer()
        if self.has_own_forward:
            return self.difference_by_weight(x, B, A)
        # `sparse` is not passed on: few optimizers take a gradient that is stored so.
        rows = F.embedding(
            x, B, padding_idx=base.padding_idx, scale_grad_by_freq=base.scale_grad_by_freq
        )
        output = rows @ A
        # Some models multiply the embedding by a constant in its forward pass.
        scale: Any = self._get_embed_scale()
        return output if scale is None else output * scale.to(output.dtype)

    @property
    def has_own_forward(self) -> bool:
        """Whether it does more than to look up rows, and to multiply them by `embed_scale`."""
        return looks_up_more_than_rows(self.get_base_layer())

    def in_weight_layout(self, matrix: Tensor) -> Tensor:
        """[vocabulary, width] as it is."""
        return matrix

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """False: PEFT's conversion writes names that its own embeddings do not have."""
        return False

    def as_lora(self, B: Tensor, A: Tensor) -> dict[str, Tensor]:
        """PEFT's names for it, whose A has one column a token: Bᵀ and Aᵀ."""
        return {"lora_embedding_A": B.mT, "lora_embedding_B": A.mT}

    @classmethod
    def from_lora(cls, lora: Any, adapter_name: str, module_name: str) -> tuple[Tensor, Tensor]:
        """(Aᵀ, Bᵀ) of PEFT's LoRA."""
        return lora.lora_embedding_A[adapter_name].mT, lora.lora_embedding_B[adapter_name].mT
