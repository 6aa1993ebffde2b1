"""Finds the adapted layers of a model."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from lora2.tuners.base.checked_model import check_is_module
from lora2.tuners.base.layers.adapted_layer import AdaptedLayer
from lora2.tuners.base.names.adapter_names import check_is_text
from lora2.tuners.base.names.compiled_names import name_in_state_dict

KindT = TypeVar("KindT")
LayerT = TypeVar("LayerT", bound=AdaptedLayer)


def modules_of_type(model: nn.Module, kind: type[KindT]) -> list[KindT]:
    """Return the modules of a class, whatever adapters they carry, in the model's order."""
    return [module for module in model.modules() if isinstance(module, kind)]


def layers_of_type(model: nn.Module, adapter_name: str, kind: type[LayerT]) -> dict[str, LayerT]:
    """Return the layers of a class that carry an adapter, by name in the model's order.

    The names are those of the model's state dict, which some wrappers of modules leave themselves
    out of.

    Raises:
        UserError: the model is not a torch.nn.Module, or the adapter's name is no text.
    """
    check_is_module(model)
    check_is_text(adapter_name)
    return {
        name_in_state_dict(name): module
        for name, module in model.named_modules()
        if isinstance(module, kind) and module.has_adapter(adapter_name)
    }


def adapted_layers(model: nn.Module, adapter_name: str) -> dict[str, AdaptedLayer]:
    """Return the layers that carry an adapter of this package, by name in the model's order."""
    return layers_of_type(model, adapter_name, AdaptedLayer)
