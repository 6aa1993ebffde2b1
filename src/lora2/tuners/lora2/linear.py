"""Linear layers with LoRA² adapters: base output and theirs in one step where that can be."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as of_all_modules
from transformers.pytorch_utils import Conv1D

from lora2.mathematics.precision import has_autocast
from lora2.mathematics.transforms import is_traced, is_transformed
from lora2.tuners.base.layers.linear import LinearLayer
from lora2.tuners.lora2.joint_product import joint_product
from lora2.tuners.lora2.layer import Lora2Layer

# torch keeps these for the life of the process.
_HOOKS_OF_ALL_MODULES = (
    of_all_modules._global_forward_hooks,
    of_all_modules._global_forward_pre_hooks,
    of_all_modules._global_backward_hooks,
    of_all_modules._global_backward_pre_hooks,
)


class Lora2Linear(LinearLayer, Lora2Layer):
    """A linear layer with LoRA² adapters: base output and theirs in one step where that can be."""

    def adapted_output(self, x: Tensor, adapter_names: list[str], *args: Any, **kwargs: Any) -> Any:
        """Base output plus that of the adapters, in one step where nothing is between them."""
        dtype = self.activation_dtype(x)
        base: Any = self.base_layer
        if args or kwargs or not self._can_join(base, adapter_names, x, dtype):
            return super().adapted_output(x, adapter_names, *args, **kwargs)
        weight = base.weight.mT if isinstance(base, Conv1D) else base.weight
        A, V = self._side_by_side(adapter_names)
        tensors = [x, weight, base.bias, A, V]
        if not x.dtype == weight.dtype == A.dtype == V.dtype == dtype:
            tensors = [tensor if tensor is None else tensor.to(dtype) for tensor in tensors]
        return joint_product(*tensors)

    def _side_by_side(self, adapter_names: list[str]) -> tuple[Tensor, Tensor]:
        """Return (A, 𝒱) of the adapters' sum, one below another."""
        if len(adapter_names) == 1:
            return self.product_factors(adapter_names[0])
        As, Vs = zip(*map(self.product_factors, adapter_names), strict=True)
        return torch.cat(As), torch.cat(Vs)

    def _can_join(self, base: Any, adapter_names: list[str], x: Tensor, dtype: torch.dtype) -> bool:
        """Whether the base output is W x + b with a frozen W, and the adapters read the same x."""
        return bool(
            adapter_names
            and not is_transformed()
            and not is_traced()
            and _is_linear_map(base)
            and not _is_intercepted(base)
            and _has_frozen_weight(base)
            # The base layer reports a mismatch that autocast does not remove.
            and (base.weight.dtype == dtype or has_autocast(x))
            and not any(map(self.drops_inputs, adapter_names))
        )


def _is_linear_map(base: Any) -> bool:
    """Whether a layer computes W x + b; a subclass may compute anything."""
    return type(base) is nn.Linear or type(base) is Conv1D


def _has_frozen_weight(base: Any) -> bool:
    """Whether W is a plain parameter, neither quantized nor sharded, and needs no gradient."""
    return type(base.weight) is nn.Parameter and not base.weight.requires_grad


def _is_intercepted(base: Any) -> bool:
    """Whether a hook, or a forward that another library has put in its place, must be run."""
    return bool(
        base._forward_hooks
        or base._forward_pre_hooks
        or base._backward_hooks
        or base._backward_pre_hooks
        or any(_HOOKS_OF_ALL_MODULES)
        or "forward" in base.__dict__
    )
