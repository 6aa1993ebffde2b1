"""Weights of experts in PEFT's LoRA: one A and one B for all experts of a parameter.

PEFT 0.21 nests a module for each parameter around the experts, in the order of the parameters, and
`base_layer` in a tensor's name is a step inwards. A has the rows of one expert after those of
another; in B the columns of all experts for one rank follow each other.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from lora2.tuners.base.layers.experts import ExpertsLayer


def stacked_lora(pairs: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Return PEFT's A [experts · r, d_in] and B [d_out, r · experts] by name.

    pairs: (B [d_out, r], A [r, d_in]) of each expert.
    """
    return {
        "lora_A.weight": torch.cat([A for _, A in pairs]),
        "lora_B.weight": torch.stack([B for B, _ in pairs], dim=-1).flatten(1),
    }


def factors_of_experts(lora: Any) -> list[tuple[Tensor, Tensor]]:
    """Return (B [d_out, r], A [r, d_in]) of each expert in float64, scaling in B.

    lora: PEFT's module around the experts for one parameter: undoes `stacked_lora`.
    """
    first, second, scaling = lora.get_delta_factors("default")
    if getattr(lora.get_base_layer(), "is_transposed", False):
        first, second = second.mT, first.mT
    return list(zip(scaling * first.double(), second.double(), strict=True))


def wrapper_name(parameter: str, model: nn.Module, written: Collection[str]) -> str:
    """Return the name of the module that PEFT puts around the experts for this parameter.

    written: full names of all parameters that the LoRA has.
    """
    module_name, _, own = parameter.rpartition(".")
    experts = model.get_submodule(module_name)
    assert isinstance(experts, ExpertsLayer)
    names = [name for name, _ in experts.base_layer.named_parameters(recurse=False)]
    later = names[names.index(own) + 1 :]
    steps = sum(f"{module_name}.{name}" in written for name in later)
    return module_name + steps * ".base_layer"


def change_of_experts(parameter: str, modules: Mapping[str, Any]) -> Tensor | None:
    """Return the change of a parameter by PEFT's LoRA, in the parameter's layout.

    modules: of the model with the LoRA, by name.
    """
    module_name, _, own = parameter.rpartition(".")
    wrapper: Any = modules[module_name]
    while isinstance(wrapper, LoraLayer):
        around: Any = wrapper
        if getattr(around, "parameter_name", None) == own:
            change: Tensor = around.get_delta_weight("default")
            return change
        wrapper = around.base_layer
    return None
