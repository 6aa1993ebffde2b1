"""Takes an adapter out of a model into which it could not be put everywhere."""

from __future__ import annotations

import warnings

from torch import nn

from lora2.tuners.base.layers.adapted_layer import AdaptedLayer
from lora2.tuners.base.layers.experts import ExpertsLayer
from lora2.tuners.base.layers.finding import adapted_layers


def take_out(model: nn.Module, adapter_name: str) -> None:
    """Remove an adapter from the layers that have it, and layers that have no other."""
    with warnings.catch_warnings():
        # PEFT warns that the active adapter is another one now.
        warnings.simplefilter("ignore")
        for layer in adapted_layers(model, adapter_name).values():
            layer.delete_adapter(adapter_name)
    # What is inside a layer comes first.
    for name, module in reversed(list(model.named_modules())):
        if isinstance(module, AdaptedLayer | ExpertsLayer) and not _has_adapters(module):
            base = module.base_layer
            # The matrices of experts go with the layer that has them.
            if isinstance(base, nn.Module):
                parent, _, own = name.rpartition(".")
                setattr(model.get_submodule(parent), own, base)


def _has_adapters(layer: AdaptedLayer | ExpertsLayer) -> bool:
    if isinstance(layer, AdaptedLayer):
        return bool(layer.first_tensors())
    return any(_has_adapters(each) for each in layer.modules() if isinstance(each, AdaptedLayer))
