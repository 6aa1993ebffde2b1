"""nn.Linear and transformers' Conv1D (a linear layer whose weight is stored transposed)."""

from typing import Any

from torch import Tensor
from transformers.pytorch_utils import Conv1D

from lora2.tuners.base.layers.adapted_layer import AdaptedLayer


class LinearLayer(AdaptedLayer):
    """The part of an adapted layer that knows it is linear: y = W x + B (A x)."""

    @staticmethod
    def shape_of(base: Any) -> tuple[int, int]:
        """(d_out, d_in)."""
        if isinstance(base, Conv1D):
            return base.weight.shape[1], base.weight.shape[0]
        return base.out_features, base.in_features

    def apply_factors(self, x: Tensor, B: Tensor, A: Tensor) -> Tensor:
        """x [..., d_in] → [..., d_out] by two thin products."""
        if self.split is not None:
            return self.split.thin_products(x, B, A)
        rows = x.reshape(-1, x.shape[-1])
        y = (rows @ A.mT) @ B.mT
        return y.view(*x.shape[:-1], y.shape[-1])

    def in_weight_layout(self, matrix: Tensor) -> Tensor:
        """[d_out, d_in], transposed for a Conv1D."""
        return matrix.mT if self.stores_transposed else matrix

    @property
    def stores_transposed(self) -> bool:
        """True for a Conv1D."""
        return isinstance(self.get_base_layer(), Conv1D)
