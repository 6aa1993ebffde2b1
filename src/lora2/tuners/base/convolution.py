"""nn.Conv2d, whose kernel [out, in/groups, h, w] is a matrix [out, in/groups · h · w]."""

from math import prod
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from lora2.errors import UserError
from lora2.tuners.base.layer import AdaptedLayer


class ConvolutionLayer(AdaptedLayer):
    """A convolution with adapters: A is a convolution to k channels, B one by one pixel."""

    @staticmethod
    def shape_of(base: Any) -> tuple[int, int]:
        """(output channels, values a kernel reads)."""
        weight_shape = base.weight.shape
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

    def lora_groups(self) -> int:
        """PEFT's A reads all channels at once and its B is grouped: each group has its own rows."""
        base: Any = self.get_base_layer()
        return base.groups

    def as_lora(self, B: Tensor, A: Tensor) -> dict[str, Tensor]:
        """Two convolutions: A [k · groups, in, h, w], zero outside a row's group, and B by pixel.

        Raises:
            UserError: a dilated convolution, or padding other than by zeros, which PEFT's LoRA
                does not repeat in its A.
        """
        base: Any = self.get_base_layer()
        # PEFT 0.21 hands its A the kernel, the stride and the padding, and nothing else.
        if base.dilation != (1, 1) or base.padding_mode != "zeros":
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
            "lora_B.weight": B[:, :, None, None],
        }

    @classmethod
    def from_lora(cls, lora: Any, adapter_name: str, module_name: str) -> tuple[Tensor, Tensor]:
        """(B, A) of its two convolutions, as matrices.

        Raises:
            UserError: a grouped or dilated convolution, or padding other than by zeros.
        """
        base: Any = lora.get_base_layer()
        form = (base.groups, base.dilation, base.padding_mode)
        if form != (1, (1, 1), "zeros"):
            raise UserError(
                f"{module_name} is a convolution with groups, dilation and padding_mode {form}, on "
                "which PEFT's LoRA computes something else than LoRA²; leave it out of "
                "target_modules."
            )
        B, A = super().from_lora(lora, adapter_name, module_name)
        return B.flatten(1), A.flatten(1)
