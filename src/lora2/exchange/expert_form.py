"""Weights of experts in PEFT's LoRA: one A and one B for all experts of a parameter.

PEFT 0.21 nests a module for each parameter around the experts, in the order of the parameters, and
`base_layer` in a tensor's name is a step inwards. A has the rows of one expert after those of
another; in B the columns of all experts for one rank follow each other.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lora2.tuners.base.layers.experts import ExpertsLayer, matrix_name


def stacked_lora(pairs: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Return PEFT's A [experts · r, d_in] and B [d_out, r · experts] by name.

    pairs: (B [d_out, r], A [r, d_in]) of each expert.
    """
    return {
        "lora_A.weight": torch.cat([A for _, A in pairs]),
        "lora_B.weight": torch.stack([B for B, _ in pairs], dim=-1).flatten(1),
    }


def factors_by_matrix(name: str, wrapper: Any) -> dict[str, tuple[Tensor, Tensor]]:
    """Return (B [d_out, r], A [r, d_in]) of each matrix of a parameter in float64, scaling in B.

    They are what the LoRA has; PEFT's own functions round them to the parameter's dtype.

    name, wrapper: of PEFT's module around the one that has the parameter.

    Returns:
        The factors by the name that the adapted layer of the matrix has; undoes `stacked_lora`.
    """
    adapter, number = "default", wrapper.num_experts
    # [experts, r, d_in] and [experts, d_out, r]
    A = wrapper.lora_A[adapter].weight.double().unflatten(0, (number, -1))
    B = wrapper.lora_B[adapter].weight.double().unflatten(1, (-1, number)).movedim(-1, 0)
    pairs = zip(wrapper.scaling[adapter] * B, A, strict=True)
    while name.endswith(".base_layer"):
        name = name.removesuffix(".base_layer")
    parameter = f"{name}.{wrapper.parameter_name}"
    return {matrix_name(parameter, index): pair for index, pair in enumerate(pairs)}


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
