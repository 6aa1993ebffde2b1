"""Which adapted layer wraps which base layer.

A linear layer that is quantized is still an nn.Linear, with a weight that only
`lora2.tuners.base.layers.quantized` looks into.
"""

from collections.abc import Mapping

from torch import nn
from torch.nn.parameter import is_lazy

from lora2.errors import UserError
from lora2.tuners.base.layers.adapted_layer import AdaptedLayer
from lora2.tuners.base.layers.base_attributes import base_of
from lora2.tuners.base.layers.quantized import is_quantized

LayerTypes = Mapping[type[nn.Module], type[AdaptedLayer]]


def wrap_layer(
    target: nn.Module, adapter_name: str, module_name: str, layer_types: LayerTypes
) -> AdaptedLayer:
    """Return an adapted layer around `target`, without an adapter yet.

    Raises:
        UserError: as `layer_type_of`, or the layer has no weight yet or an empty one.
    """
    base = base_of(target)
    layer_type = layer_type_of(base, module_name, layer_types)
    if any(map(is_lazy, base.parameters(recurse=False))):
        raise UserError(
            f"Module {module_name!r} is a {type(base).__name__} that has no weight before its "
            "first call: call the model once before you adapt it."
        )
    layer = layer_type(target, adapter_name)
    if 0 in layer.matrix_shape():
        d_out, d_in = layer.matrix_shape()
        raise UserError(
            f"Module {module_name!r} has an empty weight of {d_out} × {d_in}, which no adapter can "
            "change: add it to exclude_modules."
        )
    return layer


def layer_type_of(base: nn.Module, module_name: str, layer_types: LayerTypes) -> type[AdaptedLayer]:
    """Return the adapted layer for this kind of base layer.

    Raises:
        UserError: no adapted layer exists for this kind of module, or none for its quantization.
    """
    if is_quantized(base) and not isinstance(base, nn.Linear):
        raise UserError(
            f"Module {module_name!r} is a quantized {type(base).__name__}, which cannot be "
            "adapted: name linear layers in target_modules, or load it without quantization."
        )
    for base_type, layer_type in layer_types.items():
        if isinstance(base, base_type):
            return layer_type
    names = ", ".join(base_type.__name__ for base_type in layer_types)
    raise UserError(
        f"Module {module_name!r} is a {type(base).__name__}, which cannot be adapted: name modules "
        f"of type {names} in target_modules."
    )
