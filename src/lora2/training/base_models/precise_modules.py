"""Modules that are trained whole stay in float32 where the other weights are in half precision.

A step of a usual learning rate is lost in bfloat16, which has eight bits for a number: a bias of 3
cannot move by less than a hundredth.
"""

from __future__ import annotations

from functools import partial
from typing import Any, TypeGuard

import torch
from accelerate.utils import recursively_apply
from torch import Tensor, nn

from lora2.mathematics.precision import HALF_PRECISION


def put_in_float32(whole: nn.Module, returns_float32: bool) -> None:
    """Give all parts of a module weights in float32, and inputs to go with them.

    returns_float32: whether outputs stay in float32; otherwise they get the dtype of the weights.
    """
    for module in whole.modules():
        half = {key: each for key, each in module._parameters.items() if _is_half(each)}
        if not half:
            continue
        dtype = next(iter(half.values())).dtype
        for key, parameter in half.items():
            # Another module may share the parameter, such as a tied embedding, and must keep it.
            precise = nn.Parameter(parameter.detach().float(), parameter.requires_grad)
            module.register_parameter(key, precise)
        module.register_forward_pre_hook(_with_inputs_in_float32, with_kwargs=True)
        if not returns_float32:
            module.register_forward_hook(partial(_returning, dtype))


def _is_half(parameter: Tensor | None) -> TypeGuard[Tensor]:
    return parameter is not None and parameter.dtype in HALF_PRECISION


def _with_inputs_in_float32(module: nn.Module, args: Any, kwargs: Any) -> Any:
    return _cast(torch.float32, args), _cast(torch.float32, kwargs)


def _returning(dtype: torch.dtype, module: nn.Module, args: Any, outputs: Any) -> Any:
    return _cast(dtype, outputs)


def _cast(dtype: torch.dtype, value: Any) -> Any:
    """Return a tensor, or what holds some, with all floating-point numbers in a dtype."""
    return recursively_apply(lambda each: each.to(dtype), value, test_type=_is_floating)


def _is_floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
