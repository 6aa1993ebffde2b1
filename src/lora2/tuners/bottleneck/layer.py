"""A linear layer with bottleneck adapters after it."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from lora2.errors import UserError
from lora2.tuners.base.layers.base_attributes import BaseAttributes
from lora2.tuners.base.offloading import check_is_not_trained
from lora2.tuners.bottleneck.config import BottleneckConfig


class BottleneckLayer(nn.Module, BaseAttributes):
    """A frozen base layer and, per adapter, D (down) and U (up) with their biases."""

    adapter_layer_names = ("bottleneck_down", "bottleneck_up")
    other_param_names = ("bottleneck_activation",)

    def __init__(self, base_layer: nn.Module, adapter_name: str) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.bottleneck_down = nn.ModuleDict()
        self.bottleneck_up = nn.ModuleDict()
        self.bottleneck_activation: dict[str, str] = {}
        self._disable_adapters = False
        self._active_adapter = adapter_name
        self.merged_adapters: list[str] = []

    def add_adapter(self, adapter_name: str, config: BottleneckConfig) -> None:
        """Create D, U and their biases; the biases start at zero."""
        base: Any = self.get_base_layer()
        width = base.out_features
        down = nn.Linear(width, config.bottleneck_size)
        up = nn.Linear(config.bottleneck_size, width)
        for linear in (down, up):
            _draw(linear.weight, config.init_std)
            nn.init.zeros_(linear.bias)
        self.bottleneck_down[adapter_name] = down
        self.bottleneck_up[adapter_name] = up
        self.bottleneck_activation[adapter_name] = config.activation
        self.move_to_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Base output h plus U f(D h + b_D) + b_U of every active adapter."""
        h: Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return h
        result = h
        for name in self.active_adapters:
            if name in self.bottleneck_activation:
                result = result + self._output(h, name)
        return result

    def _output(self, h: Tensor, name: str) -> Tensor:
        down: Any = self.bottleneck_down[name]
        up: Any = self.bottleneck_up[name]
        check_is_not_trained(down, down.weight, name)
        # PEFT keeps the adapter in float32 whatever the model has.
        x = self._cast_input_dtype(h, down.weight.dtype)
        inner = getattr(F, self.bottleneck_activation[name])(down(x))
        output: Tensor = up(inner)
        return output.to(h.dtype)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refuse.

        Raises:
            UserError: always; the adapter is not linear.
        """
        raise UserError(
            "A bottleneck adapter cannot be merged into a weight, for it is not linear: save it "
            "with save_pretrained and load it on its base model."
        )

    def unmerge(self) -> None:
        """Do nothing: nothing can have been merged."""

    def __repr__(self) -> str:
        """Name the method before the layer, as PEFT's layers do."""
        return "bottleneck." + super().__repr__()


def _draw(weight: Tensor, std: float) -> None:
    # torch divides by the standard deviation.
    if std:
        nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
    else:
        nn.init.zeros_(weight)
