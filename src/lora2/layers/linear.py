"""nn.Linear and transformers' Conv1D (a linear layer whose weight is stored transposed)."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lora2.layers.adapted import AdaptedLayer
from lora2.layers.joint_product import joint_product, thin_product
from lora2.layers.lora2_layer import Lora2Layer


class LinearLayer(AdaptedLayer):
    """The part of an adapted layer that knows it is linear: y = W x + B (A x)."""

    def matrix_shape(self) -> tuple[int, int]:
        """(d_out, d_in)."""
        base: Any = self.get_base_layer()
        if isinstance(base, Conv1D):
            return base.weight.shape[1], base.weight.shape[0]
        return base.out_features, base.in_features

    def apply_factors(self, x: Tensor, B: Tensor, A: Tensor) -> Tensor:
        """x [..., d_in] → [..., d_out] by two thin products."""
        return thin_product(x, A, B)

    def in_weight_layout(self, matrix: Tensor) -> Tensor:
        """[d_out, d_in], transposed for a Conv1D."""
        return matrix.mT if isinstance(self.get_base_layer(), Conv1D) else matrix


class Lora2Linear(LinearLayer, Lora2Layer):
    """A linear layer with LoRA² adapters: base output and theirs in one step where that can be."""

    def adapted_output(self, x: Tensor, adapter_names: list[str], *args: Any, **kwargs: Any) -> Any:
        """Base output plus that of the adapters, in one step where nothing stands between them."""
        dtype = self.activation_dtype(x)
        if args or kwargs or not adapter_names or not self._is_plain(adapter_names, x, dtype):
            return super().adapted_output(x, adapter_names, *args, **kwargs)
        base: Any = self.get_base_layer()
        weight = base.weight.mT if isinstance(base, Conv1D) else base.weight
        bias = None if base.bias is None else base.bias.to(dtype)
        vt, C, V = self._side_by_side(adapter_names)
        return joint_product(x.to(dtype), weight.to(dtype), bias, vt, C, V)

    def _side_by_side(self, adapter_names: list[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Return (vᵀ, C, 𝒱) of the adapters' sum: vᵀ and 𝒱 one below another, C in blocks."""
        factors = [self.product_factors(name) for name in adapter_names]
        if len(factors) == 1:
            return factors[0]
        vts, cores, Vs = zip(*factors, strict=True)
        return torch.cat(vts), torch.block_diag(*cores), torch.cat(Vs)

    def _is_plain(self, adapter_names: list[str], x: Tensor, dtype: torch.dtype) -> bool:
        """Whether the base output is W x + b with a frozen W, and the adapters read the same x."""
        base: Any = self.base_layer
        return (
            type(base) in (nn.Linear, Conv1D)
            and type(base.weight) is nn.Parameter
            and not base.weight.requires_grad
            # A mismatch that autocast does not mend is for the base layer to tell.
            and (base.weight.dtype == dtype or torch.is_autocast_enabled(x.device.type))
            # A hook, or a forward that another library has put in place of its own, must be run.
            and not (base._forward_hooks or base._forward_pre_hooks or "forward" in vars(base))
            and not any(self._drops_inputs(name) for name in adapter_names)
        )

    def _drops_inputs(self, adapter_name: str) -> bool:
        dropout = self.adapter_dropout[adapter_name]
        return dropout.training and not isinstance(dropout, nn.Identity)
