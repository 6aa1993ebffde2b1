"""Linear layers whose weight is quantized by bitsandbytes or torchao, and plain ones made of them.

Neither package is imported here: a weight can be one of theirs only after somebody else has.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lora2.mathematics.precision import FLOATING


def _class(module: str, name: str) -> Any:
    """A class of a package, or an empty tuple, of which nothing is an instance."""
    return getattr(sys.modules.get(module), name, ())


def _four_bit() -> Any:
    return _class("bitsandbytes.nn", "Params4bit")


def _eight_bit() -> Any:
    return _class("bitsandbytes.nn", "Int8Params")


def _torchao() -> Any:
    return _class("torchao.utils", "TorchAOBaseTensor")


def is_quantized(layer: nn.Module) -> bool:
    """Whether the layer's weight is quantized by bitsandbytes or torchao."""
    weight = getattr(layer, "weight", None)
    return isinstance(weight, (_four_bit(), _eight_bit(), _torchao()))


def values_of_weight(layer: nn.Module, name: str = "weight") -> Tensor | None:
    """Return the values of a weight: in float32 if it is quantized, else itself.

    None for a weight that cannot be dequantized, or that is of a kind unknown here.
    """
    weight: Any = getattr(layer, name)
    if isinstance(weight, _four_bit()):
        return _from_four_bits(layer)
    if isinstance(weight, _eight_bit()):
        return _from_eight_bits(layer)
    if isinstance(weight, _torchao()):
        try:
            return weight.dequantize().float()
        except (NotImplementedError, AttributeError):
            return None
    # FLOATING has no float8: there a layer has scales in addition to its weight.
    return weight.data if weight.dtype in FLOATING else None


def _from_four_bits(layer: Any) -> Tensor:
    from bitsandbytes.functional import dequantize_4bit

    _unpack(layer)
    weight = layer.weight
    if weight.quant_state is None:
        # bitsandbytes quantizes when the layer is moved to its device, not before.
        return weight.data.float()
    # The state's dtype is the one that the values are rounded to.
    state = copy.copy(weight.quant_state)
    state.dtype = torch.float32
    return dequantize_4bit(weight.data, state)


def _from_eight_bits(layer: Any) -> Tensor:
    from bitsandbytes.functional import int8_vectorwise_dequant

    weight = layer.weight
    if weight.dtype != torch.int8:
        return weight.data.float()
    # The scales of the rows move from the weight to the layer in its first forward pass.
    scales = weight.SCB if layer.state.SCB is None else layer.state.SCB
    return int8_vectorwise_dequant(weight.data, scales.to(weight.device))


def _unpack(layer: Any) -> None:
    """Undo the packing of a 4-bit weight: see `keep_layouts`."""
    if not getattr(layer.weight.quant_state, "packing_format_for_cpu", False):
        return
    # bitsandbytes does so on saving.
    layer.state_dict()
    state = layer.weight.quant_state
    if state.absmax.dim() == 2:
        # All but the scales, unless they are quantized themselves (bitsandbytes 0.50).
        state.absmax = state.absmax.mT.reshape(-1).float()


def keep_layouts(model: nn.Module) -> None:
    """Keep bitsandbytes from packing 4-bit weights again in evaluation.

    On a CPU with bfloat16 instructions it does, in place, for a kernel that has no gradient, and
    rounds the scales: the model would not train on after its first evaluation.
    """
    module: Any
    for module in model.modules():
        # Not by the attribute, which PEFT's wrapper of an embedding computes.
        if isinstance(module._parameters.get("weight"), _four_bit()):
            module.support_avx512bf16_for_cpu = False
            _unpack(module)


def plain_linear(layer: nn.Linear, weight: Tensor) -> nn.Linear:
    """An nn.Linear with this weight, and the rest of a quantized layer in the weight's dtype."""
    plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    plain.weight = nn.Parameter(weight, requires_grad=False)
    if layer.bias is not None:
        bias = layer.bias.detach().to(weight.dtype)
        plain.bias = nn.Parameter(bias, requires_grad=layer.bias.requires_grad)
    return plain.train(layer.training)


def activation_dtype_of(model: nn.Module) -> torch.dtype:
    """The dtype that flows through a model: that of its first plain parameter, an embedding mostly.

    A quantized weight does not tell it: `prepare_model_for_kbit_training` has all else in float32.
    """
    return next(plain_dtypes(model), torch.get_default_dtype())


def plain_dtypes(model: nn.Module) -> Iterator[torch.dtype]:
    """Yield the dtypes of the parameters that are not quantized, in the order of the model."""
    for parameter in model.parameters():
        if type(parameter) is nn.Parameter and parameter.is_floating_point():
            yield parameter.dtype


def dequantize_model(model: nn.Module, dtype: torch.dtype) -> None:
    """Put plain layers in the place of the quantized linear ones that are left in a model.

    A transformers model forgets that it was quantized, so that it is saved as a plain one.
    """
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and is_quantized(module):
            weight = values_of_weight(module)
            if weight is not None:
                model.set_submodule(name, plain_linear(module, weight.to(dtype)))
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is not None and not any(map(is_quantized, model.modules())):
        quantizer.remove_quantization_config(model)
