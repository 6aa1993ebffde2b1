"""Tensors that accelerate has offloaded to the CPU or to disk (`device_map`).

Its hooks load the tensors of a module when the module is called. A ParameterDict never is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lora2.errors import UserError


def execution_device(module: nn.Module) -> torch.device | None:
    """Return where a module computes if its tensors are offloaded, else None."""
    hook = _offloading_hook(module)
    return None if hook is None else torch.device(hook.execution_device)


def has_offloaded(model: nn.Module) -> bool:
    """Whether any tensor of a model is offloaded."""
    return any(
        _offloading_hook(module) is not None and any(each.is_meta for each in module.parameters())
        for module in model.modules()
    )


def loaded(held: Any, adapter_name: str) -> Tensor:
    """Return the tensor of one adapter, read from where it is offloaded to, if it is.

    held: a ParameterDict by adapter name.

    Raises:
        UserError: it is to be trained, and an offloaded tensor keeps no gradient.
    """
    parameter: Tensor = held[adapter_name]
    hook = _offloading_hook(held) if parameter.is_meta else None
    if hook is None:
        return parameter
    check_is_not_trained(held, parameter, adapter_name)
    return _read(hook, adapter_name)


def loaded_weight(module: nn.Module, name: str) -> Tensor:
    """Return a weight of a module, read from where it is offloaded to, if it is."""
    weight: Tensor = getattr(module, name)
    hook = _offloading_hook(module) if weight.is_meta else None
    return weight if hook is None else _read(hook, name)


def check_is_not_trained(module: nn.Module, parameter: Tensor, adapter_name: str) -> None:
    """Check that a parameter is not trained where it is offloaded: it would keep no gradient.

    Raises:
        UserError: it is.
    """
    is_trained = module.training and parameter.requires_grad and torch.is_grad_enabled()
    if is_trained and parameter.is_meta and _offloading_hook(module) is not None:
        raise UserError(
            f"Adapter {adapter_name!r} is offloaded and cannot be trained: load the base model "
            "with its device_map first and add the adapter then, which stays in memory."
        )


def loaded_by_name(model: nn.Module, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return entries of a model's state dict, those that are offloaded read from there."""
    result = dict(tensors)
    for key, value in tensors.items():
        if isinstance(value, Tensor) and value.is_meta:
            module_name, _, name = key.rpartition(".")
            hook = _offloading_hook(model.get_submodule(module_name))
            if hook is not None:
                result[key] = _read(hook, name)
    return result


def _read(hook: Any, name: str) -> Tensor:
    tensor: Tensor = hook.weights_map[name]
    return tensor.to(hook.execution_device)


def _offloading_hook(module: nn.Module) -> Any:
    hook = module.__dict__.get("_hf_hook")
    # accelerate puts several hooks of one module into another hook.
    hooks = getattr(hook, "hooks", (hook,))
    return next((each for each in hooks if getattr(each, "offload", False)), None)
