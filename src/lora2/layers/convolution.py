"""nn.Conv2d, whose kernel [out, in/groups, h, w] is a matrix [out, in/groups · h · w]."""

from math import prod
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from lora2.layers.lora2_layer import Lora2Layer


class Lora2Conv2d(Lora2Layer):
    """A convolution with adapters: A is a convolution to k channels, B one by one pixel."""

    def matrix_shape(self) -> tuple[int, int]:
        """(output channels, values a kernel reads)."""
        weight_shape = self.weight.shape
        return weight_shape[0], prod(weight_shape[1:])

    def apply_factors(self, x: Tensor, B: Tensor, A: Tensor) -> Tensor:
        """x [batch, channels, height, width] → the base layer's output shape."""
        base: Any = self.get_base_layer()
        if base.groups > 1:
            # Each group reads other channels, so one thin kernel cannot serve all outputs.
            return base._conv_forward(x, self.in_weight_layout(B @ A), None)
        kernel = A.reshape(A.shape[0], *base.weight.shape[1:])
        return F.conv2d(base._conv_forward(x, kernel, None), B[:, :, None, None])

    def in_weight_layout(self, matrix: Tensor) -> Tensor:
        """[out, in/groups, h, w]."""
        return matrix.reshape(self.weight.shape)
