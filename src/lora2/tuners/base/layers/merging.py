"""The weights of a merged layer: what they become, how they are written, and what comes back.

`layer` is an `AdaptedLayer` of adapted_layer.py, which imports this file: its type cannot be named
here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lora2.errors import UserError
from lora2.tuners.base.distributed.whole import in_layout_of, is_sharded
from lora2.tuners.base.layers.quantized import is_quantized, values_of_weight


def merged_values(layer: Any, adapter_name: str, change: Tensor) -> dict[str, Tensor]:
    """Return the base layer's weights by name, plus a change that is laid out as they are.

    Raises:
        UserError: a weight is split over several processes, quantized in a way that cannot be
            undone, or computed from other parameters.
    """
    base = layer.get_base_layer()
    if layer.split is None and any(
        is_sharded(getattr(base, name)) for name in layer.weight_names()
    ):
        raise UserError(
            f"Adapter {adapter_name!r} cannot be merged into a weight that is split over several "
            "processes: call save_pretrained in all of them, load the adapter on a base model "
            "in one process, and merge there."
        )
    quantized = is_quantized(base)
    if not quantized:
        _check_holds_weights(layer, adapter_name, base)
    if quantized and base is not layer.base_layer:
        raise UserError(
            f"Adapter {adapter_name!r} cannot be merged into a quantized weight that another "
            f"method's adapters are on, too ({type(layer.base_layer).__name__}): unload those "
            "first."
        )
    changes = layer.by_weight(change)
    return {name: _sum(layer, adapter_name, name, part) for name, part in changes.items()}


def _check_holds_weights(layer: Any, adapter_name: str, base: Any) -> None:
    """Check that the weights are what the base layer holds, not what it computes of it."""
    held = getattr(base, "_parameters", None)
    for name in layer.weight_names():
        if held is not None and name not in held and name not in base._buffers:
            raise UserError(
                f"Adapter {adapter_name!r} cannot be merged into the {name} of a "
                f"{type(base).__name__}, which is computed from other parameters: call "
                "torch.nn.utils.parametrize.remove_parametrizations (or remove_weight_norm) "
                "on the layer before the adapter is added, or leave the adapter unmerged."
            )


def _sum(layer: Any, adapter_name: str, weight_name: str, change: Tensor) -> Tensor:
    base = layer.get_base_layer()
    weight = values_of_weight(base, weight_name)
    if weight is None:
        stored = getattr(base, weight_name)
        raise UserError(
            f"Adapter {adapter_name!r} cannot be merged into a {type(stored).__name__} of "
            f"dtype {stored.dtype}: load the base model without quantization to merge."
        )
    # Summed in the wider dtype, so that a half-precision weight is rounded once, not twice.
    merged = weight + in_layout_of(change, weight)
    result: Tensor = merged.to(layer.plain_dtype if is_quantized(base) else weight.dtype)
    return result


def write_weights(layer: Any, base: Any, values: dict[str, Tensor]) -> None:
    """Write weights in place; one that other modules have too becomes a parameter of the layer."""
    is_own = layer.weight_owners == 1 or bool(layer.shared_weights or layer.replaced)
    shared = {}
    for name, new in values.items():
        weight = getattr(base, name)
        # An inference tensor is read-only, and an engine may have put a tensor in front of the
        # parameter.
        if is_own and base._parameters.get(name) is weight and not weight.is_inference():
            weight.copy_(new)
            continue
        if layer.weight_owners > 1 and not is_own:
            shared[name] = weight
        setattr(base, name, nn.Parameter(new, requires_grad=weight.requires_grad))
    layer.shared_weights |= shared


@torch.inference_mode(False)
@torch.no_grad()
def restore_replaced(layer: Any) -> None:
    """Put back what merges have replaced: the layer is then unmerged. Otherwise do nothing."""
    if layer.replaced:
        (quantized,) = layer.replaced
        # A `to` in between has not moved it.
        layer.base_layer = quantized.to(layer.weight.device).train(layer.training)
        layer.replaced = ()
    elif layer.shared_weights:
        base = layer.get_base_layer()
        for name, weight in layer.shared_weights.items():
            setattr(base, name, weight)
        layer.shared_weights = {}
    else:
        return
    layer.merged_adapters.clear()
    layer.merged_factors.clear()
