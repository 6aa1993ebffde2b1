"""Weighted sums of adapters, exactly: Σ w_i B_i A_i is one adapter of width Σ k_i."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lora2.errors import UserError
from lora2.layers.base import Lora2Layer
from lora2.mathematics.factors import normal_form
from lora2.penalty import adapted_layers

if TYPE_CHECKING:
    from lora2.model import Lora2Model

COMBINATION_TYPES = ("cat", "svd", "linear")


@torch.no_grad()
def add_weighted_adapter(
    tuner: Lora2Model,
    adapters: list[str],
    weights: list[float],
    adapter_name: str,
    combination_type: str = "cat",
    svd_rank: int | None = None,
) -> None:
    """Add the adapter Σ weight · Δ to the model, exactly; nothing happens if the name exists.

    combination_type: "cat" (or "linear") keeps the whole sum, k being the sum of the k's;
    "svd" keeps the `svd_rank` largest singular values (default: the largest k among them).

    Raises:
        UserError: an unknown adapter or combination, or lists of different length.
    """
    if adapter_name in tuner.peft_config:
        return
    _check(tuner, adapters, weights, combination_type)
    widths = [_largest_width(tuner, name) for name in adapters]
    width = (svd_rank or max(widths)) if combination_type == "svd" else sum(widths)
    first = tuner.peft_config[adapters[0]]
    tuner.peft_config[adapter_name] = replace(
        first,
        k=width,
        init_r=width,
        target_r=None,
        k_pattern={},
        rank_pattern={},
        orthogonality="none",
        init_weights=True,
        lora_dropout=0.0,
        target_modules=_joint_targets(tuner, adapters),
        inference_mode=True,
    )
    tuner.inject_adapter(tuner.model, adapter_name)
    tuner._cast_adapter_dtype(adapter_name)
    for layer in adapted_layers(tuner.model, adapter_name).values():
        _fill(layer, adapters, weights, adapter_name, width)


def _check(
    tuner: Lora2Model, adapters: list[str], weights: list[float], combination_type: str
) -> None:
    if not adapters or len(adapters) != len(weights):
        raise UserError(
            f"adapters has {len(adapters)} names and weights {len(weights)} numbers: give one "
            "weight for each adapter, and at least one."
        )
    unknown = [name for name in adapters if name not in tuner.peft_config]
    if unknown:
        raise UserError(
            f"adapters={unknown} do not exist in this model: choose from {list(tuner.peft_config)}."
        )
    if combination_type not in COMBINATION_TYPES:
        raise UserError(
            f"combination_type={combination_type!r} is not known: choose one of "
            f"{', '.join(COMBINATION_TYPES)}."
        )


def _largest_width(tuner: Lora2Model, adapter_name: str) -> int:
    layers = adapted_layers(tuner.model, adapter_name).values()
    return max(layer.parameters_of(adapter_name)["v"].shape[1] for layer in layers)


def _joint_targets(tuner: Lora2Model, adapters: list[str]) -> str | set[str]:
    targets = [tuner.peft_config[name].target_modules for name in adapters]
    if all(isinstance(target, str) for target in targets):
        return "|".join(f"({target})" for target in targets)
    if any(isinstance(target, str) for target in targets):
        raise UserError(
            "target_modules of the adapters mix a regular expression with lists of names, so they "
            "have no common form: load them with the same kind."
        )
    return set().union(*targets)


def _fill(
    layer: Lora2Layer, adapters: list[str], weights: list[float], adapter_name: str, width: int
) -> None:
    """Write the sum's singular value form, which is exact, into the new adapter."""
    pairs = [
        (weight * B, A)
        for name, weight in zip(adapters, weights, strict=True)
        if layer.has_adapter(name)
        for B, A in [layer.factors(name)]
    ]
    P, sigma, Q = _singular_value_form(
        torch.cat([B for B, _ in pairs], dim=1), torch.cat([A for _, A in pairs], dim=0)
    )
    k = min(width, len(sigma))
    scaling = layer.lora2_settings[adapter_name].scaling
    layer.resize_adapter(adapter_name, k, k)
    identity = torch.eye(k, dtype=sigma.dtype, device=sigma.device)
    values = {"v": P[:, :k], "u": identity, "lam": sigma[:k] / scaling, "U": identity, "V": Q[:k]}
    for symbol, parameter in layer.parameters_of(adapter_name).items():
        parameter.copy_(values[symbol])


def _singular_value_form(B: Tensor, A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(P [d_in, k], σ [k], Q [k, d_out]) with B A = Qᵀ diag(σ) Pᵀ, from thin matrices only."""
    k = len(A)
    identity = torch.eye(k, dtype=A.dtype, device=A.device)
    ones = torch.ones(k, dtype=A.dtype, device=A.device)
    return normal_form(A.mT, identity, ones, identity, B.mT, orthonormalize=False)
