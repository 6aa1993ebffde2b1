"""Convolutions: a kernel [out, in/groups, *sizes] is a matrix [out, in/groups · prod(sizes)]."""

from math import prod
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from lora2.errors import UserError
from lora2.tuners.base.layers.adapted_layer import AdaptedLayer

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_PLAIN_FORWARDS = (nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward)


class ConvolutionLayer(AdaptedLayer):
    """A convolution with adapters: A is a convolution to k channels, B one of size 1."""

    @staticmethod
    def shape_of(base: Any) -> tuple[int, int]:
        """(output channels, values a kernel reads)."""
        weight_shape = base.weight.shape
        return weight_shape[0], prod(weight_shape[1:])

    def apply_factors(self, x: Tensor, B: Tensor, A: Tensor) -> Tensor:
        """x [batch, channels, *sizes] → the base layer's output shape."""
        base: Any = self.get_base_layer()
        if self.has_own_forward:
            return self.difference_by_weight(x, B, A)
        if base.groups > 1:
            # Each group reads other channels, so one thin kernel cannot serve all outputs.
            return base._conv_forward(x, self.in_weight_layout(B @ A), None)
        thin = base._conv_forward(x, A.reshape(A.shape[0], *base.weight.shape[1:]), None)
        return _CONVOLUTIONS[len(base.kernel_size)](thin, self._of_size_one(B))

    def in_weight_layout(self, matrix: Tensor) -> Tensor:
        """[out, in/groups, *sizes]."""
        return matrix.reshape(self.weight.shape)

    @property
    def has_own_forward(self) -> bool:
        """Whether it pads its input, say, or computes another kernel from the weight."""
        return type(self.get_base_layer()).forward not in _PLAIN_FORWARDS

    def lora_groups(self) -> int:
        """PEFT's A reads all channels at once and its B is grouped: each group has its own rows."""
        base: Any = self.get_base_layer()
        return base.groups

    def as_lora(self, B: Tensor, A: Tensor) -> dict[str, Tensor]:
        """Two convolutions: A [k · groups, in, *sizes], zero outside a row's group, and B.

        Raises:
            UserError: a dilated convolution, or padding other than by zeros, which PEFT's LoRA
                does not repeat in its A.
        """
        base: Any = self.get_base_layer()
        # PEFT 0.21 hands its A the kernel, the stride and the padding, and nothing else.
        if max(base.dilation) > 1 or base.padding_mode != "zeros":
            raise UserError(
                f"PEFT's LoRA has no convolution with dilation={base.dilation} and "
                f"padding_mode={base.padding_mode!r}; export the merged model instead."
            )
        kernel = A.reshape(len(A), *base.weight.shape[1:])
        rows = kernel.new_zeros(base.groups, len(A), base.groups, *kernel.shape[1:])
        for group in range(base.groups):
            rows[group, :, group] = kernel
        return {
            "lora_A.weight": rows.flatten(2, 3).flatten(0, 1),
            "lora_B.weight": self._of_size_one(B),
        }

    def _of_size_one(self, B: Tensor) -> Tensor:
        """[out, k] as a kernel [out, k, 1, ...]."""
        base: Any = self.get_base_layer()
        return B[(..., *[None] * len(base.kernel_size))]

    @classmethod
    def from_lora(cls, lora: Any, adapter_name: str, module_name: str) -> tuple[Tensor, Tensor]:
        """(B, A) of its two convolutions, as matrices.

        Raises:
            UserError: a grouped or dilated convolution, or padding other than by zeros.
        """
        base: Any = lora.get_base_layer()
        form = (base.groups, base.dilation, base.padding_mode)
        if base.groups > 1 or max(base.dilation) > 1 or base.padding_mode != "zeros":
            raise UserError(
                f"{module_name} is a convolution with groups, dilation and padding_mode {form}, on "
                "which PEFT's LoRA computes something else than LoRA²; leave it out of "
                "target_modules."
            )
        B, A = super().from_lora(lora, adapter_name, module_name)
        return B.flatten(1), A.flatten(1)
