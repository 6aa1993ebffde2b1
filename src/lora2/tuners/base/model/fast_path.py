"""Keeps torch's Transformer encoders from going past the adapters in them.

In evaluation without gradients, nn.TransformerEncoderLayer hands the weights of its parts to one
fused function, and calls none of the parts. It does not do so if a part has a hook.
"""

from __future__ import annotations

from typing import Any, TypeGuard

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from lora2.tuners.base.layers.finding import modules_of_type


def leave_fast_path(model: nn.Module) -> list[nn.TransformerEncoder]:
    """Make encoders call the adapted layers in them; return those that `restore` is for."""
    changed: list[nn.TransformerEncoder] = []
    layer: Any
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            for layer in modules_of_type(module, BaseTunerLayer):
                # The hook is gone with the layer.
                if _do_nothing not in layer._forward_pre_hooks.values():
                    layer.register_forward_pre_hook(_do_nothing)
        # Only the fast path of its layers can read the nested tensors that it makes.
        if _makes_nested_tensors(module) and modules_of_type(module, BaseTunerLayer):
            module.use_nested_tensor = False
            changed.append(module)
    return changed


def restore(encoders: list[nn.TransformerEncoder]) -> None:
    """Undo `leave_fast_path` in a model without adapters."""
    for encoder in encoders:
        encoder.use_nested_tensor = True


def _makes_nested_tensors(module: nn.Module) -> TypeGuard[nn.TransformerEncoder]:
    return isinstance(module, nn.TransformerEncoder) and bool(module.use_nested_tensor)


def _do_nothing(module: nn.Module, args: Any) -> None:
    """A hook that is there to be seen by torch."""
