"""The tuner: puts bottleneck adapters after linear layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from lora2.errors import UserError
from lora2.tuners.base.config.targets import SUBLAYER_OUTPUTS
from lora2.tuners.base.layers.base_attributes import base_of
from lora2.tuners.base.model.placing_tuner import PlacingTuner, check_is_not_split
from lora2.tuners.bottleneck.config import BottleneckConfig
from lora2.tuners.bottleneck.layer import BottleneckLayer


class BottleneckModel(PlacingTuner):
    """A model with bottleneck adapters (PEFT's tuner for `BottleneckConfig`)."""

    prefix = "bottleneck_"
    tuner_layer_cls = BottleneckLayer
    target_module_mapping = SUBLAYER_OUTPUTS

    def _create_and_replace(
        self,
        peft_config: BottleneckConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        check_is_not_split(target, current_key)
        if isinstance(target, BottleneckLayer):
            target.add_adapter(adapter_name, peft_config)
            return
        base = base_of(target)
        if not isinstance(base, nn.Linear):
            raise UserError(
                f"Module {current_key!r} is a {type(base).__name__}, after which no bottleneck "
                "adapter is possible: name modules of type Linear in target_modules."
            )
        layer = BottleneckLayer(target, adapter_name)
        layer.add_adapter(adapter_name, peft_config)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Refuse `adapter_names`, which PEFT would leave out in silence (PEFT's hook)."""
        if kwargs.get("adapter_names") is not None:
            raise UserError(
                "adapter_names cannot be used with bottleneck adapters: give the rows of each "
                "adapter a batch of their own, after set_adapter."
            )
        yield
