"""The state of an adapted layer, and what the kind of its base layer and the method define."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from lora2.mathematics.precision import has_autocast
from lora2.tuners.base.distributed.tensor_parallel import Split
from lora2.tuners.base.layers.base_attributes import BaseAttributes


class LayerContract(nn.Module, BaseAttributes, BaseTunerLayer):
    """The state of an adapted layer, and what its subclasses define.

    What kind of layer is adapted (`lora2.tuners.base.layers.linear`, ...) is one subclass, and how
    an adapter makes its two factors (`lora2.tuners.lora2.layer`, ...) another; a layer is both.

    Attributes:
        scaling: factor of the change by adapter name, as PEFT's LoRA layers have it. It may be
            altered; it is not saved.
    """

    def __init__(self, base_layer: nn.Module, adapter_name: str) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.adapter_dropout = nn.ModuleDict()
        self.scaling: dict[str, float] = {}
        self._disable_adapters = False
        self._active_adapter = adapter_name
        # How tensor parallelism has split the base weight over processes.
        self.split: Split | None = None

    # What PEFT calls to alter the scaling

    def set_scale(self, adapter: str, scale: float) -> None:
        """Make the factor of one adapter `scale` times the one that its config gives."""
        if adapter in self.scaling:
            self.scaling[adapter] = scale * self.initial_scaling(adapter)

    def scale_layer(self, scale: float) -> None:
        """Multiply the factor of every active adapter."""
        for name in self._scaled_adapters():
            self.scaling[name] *= scale

    def unscale_layer(self, scale: float | None = None) -> None:
        """Divide the factor of every active adapter; None gives the config's again."""
        for name in self._scaled_adapters():
            if scale is None:
                self.scaling[name] = self.initial_scaling(name)
            else:
                self.scaling[name] /= scale

    def _scaled_adapters(self) -> list[str]:
        return [name for name in self.active_adapters if name in self.scaling]

    # What the kind of base layer defines

    @staticmethod
    def shape_of(base: Any) -> tuple[int, int]:
        """(d_out, d_in) of the weight of such a base layer, seen as a matrix."""
        raise NotImplementedError

    def apply_factors(self, x: Tensor, B: Tensor, A: Tensor) -> Tensor:
        """Output that the weight B A alone would give for the input x."""
        raise NotImplementedError

    def in_weight_layout(self, matrix: Tensor) -> Tensor:
        """A [d_out, d_in] matrix in the layout of the base layer's weight."""
        raise NotImplementedError

    def weight_names(self) -> tuple[str, ...]:
        """The names of the base layer's parameters that the change is of."""
        return ("weight",)

    def by_weight(self, change: Tensor) -> dict[str, Tensor]:
        """A change in the layout of the base layer's weight, by the name of each parameter."""
        return {"weight": change}

    def layers_inside(self) -> tuple[tuple[nn.Module, str], ...]:
        """Parents and names of layers in the base layer that are adapted with it."""
        return ()

    @property
    def has_own_forward(self) -> bool:
        """Whether the base layer computes something else, or more, than its kind does.

        Its output is then that of the changed weight, not the base output plus the adapter's.
        """
        return False

    def activation_dtype(self, x: Tensor) -> torch.dtype:
        """Dtype in which products with x are taken: autocast lowers all but float64."""
        if x.dtype == torch.float64 or not has_autocast(x):
            return x.dtype
        return torch.get_autocast_dtype(x.device.type)

    def lora_groups(self) -> int:
        """A PEFT LoRA of rank r on this layer holds a change of rank r / groups."""
        return 1

    def as_lora(self, B: Tensor, A: Tensor) -> dict[str, Tensor]:
        """The tensors of the PEFT LoRA whose change is B A, by their names in the layer.

        Raises:
            UserError: PEFT's LoRA computes something else on such a layer.
        """
        return {"lora_A.weight": A, "lora_B.weight": B}

    @classmethod
    def from_lora(cls, lora: Any, adapter_name: str, module_name: str) -> tuple[Tensor, Tensor]:
        """(B, A) of a PEFT LoRA layer on such a base layer, scaling left aside: undoes `as_lora`.

        Raises:
            UserError: PEFT's LoRA computes something else on such a layer.
        """
        return lora.lora_B[adapter_name].weight, lora.lora_A[adapter_name].weight

    @property
    def stores_transposed(self) -> bool:
        """Whether the weight is stored as [d_in, d_out], which PEFT calls fan_in_fan_out."""
        return False

    # What the method defines

    def has_adapter(self, adapter_name: str) -> bool:
        """Whether this layer carries the adapter."""
        raise NotImplementedError

    def has_effect(self, adapter_name: str) -> bool:
        """Whether this layer carries the adapter, and it is not an empty one."""
        return self.has_adapter(adapter_name)

    def initial_scaling(self, adapter_name: str) -> float:
        """Return the factor that the adapter's config gives."""
        raise NotImplementedError

    def factors(self, adapter_name: str, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """Return (B [d_out, k], A [k, d_in]): the adapter changes the weight by B A.

        Computed in `dtype`, or in the stored tensors' own, float32 at least.
        """
        raise NotImplementedError

    def forward_factors(self, adapter_name: str) -> tuple[Tensor, Tensor]:
        """Return `factors` for a forward pass, which a method may have made ready before."""
        return self.factors(adapter_name)

    def prunable(self, adapter_name: str) -> tuple[Tensor, Tensor]:
        """The values [r] that pruning makes zero, and a factor [r, ·] with a row for each."""
        raise NotImplementedError
