"""Weighted sums of adapters, exactly: Σ w_i B_i A_i is one adapter of width Σ k_i."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

import torch
from torch import Tensor

from lora2.errors import NumericalError, UserError
from lora2.mathematics.low_rank import singular_value_form
from lora2.support.field_types import fits, is_finite_number, is_sequence, shortened
from lora2.support.shown_values import as_shown
from lora2.tuners.base.model.adapted_model import AdaptedModel
from lora2.tuners.base.names.adapter_names import check_adapter_name
from lora2.tuners.base.token_rows.finding import copy_rows
from lora2.tuners.lora2.combined_heads import (
    Heads,
    head_states,
    indices_of,
    names_of_heads,
    owner_of_rows,
)
from lora2.tuners.lora2.config import Lora2Config
from lora2.tuners.lora2.fields_of_sizes import fields_of_sizes
from lora2.tuners.lora2.layer import lora2_layers

COMBINATION_TYPES = ("cat", "svd", "linear")
# A sum has rounding errors of 1e-16 of what is added up, in float64: what is left of changes that
# cancel is smaller than this share of it.
_NEGLIGIBLE = 1e-12


@torch.no_grad()
def add_weighted_adapter(
    tuner: AdaptedModel,
    adapters: list[str],
    weights: list[float],
    adapter_name: str,
    combination_type: str = "cat",
    svd_rank: int | None = None,
    heads: Heads = "refuse",
) -> float | None:
    """Add the adapter Σ weight · Δ to the model: see `Lora2Model.add_weighted_adapter`."""
    if isinstance(adapter_name, str) and adapter_name in tuner.peft_config:
        return None
    check_adapter_name(adapter_name)
    adapters, weights = _checked(tuner, adapters, weights)
    _check_choices(combination_type, svd_rank, heads)
    states = head_states(tuner, adapters, weights, heads)
    rows_from = owner_of_rows(tuner, adapters, heads)
    if not any(lora2_layers(tuner.model, name) for name in adapters):
        raise UserError(
            f"adapters: no layer has {', '.join(adapters)} any more, since a model that was merged "
            "or exported is given up; load the adapter on its base model again."
        )
    limit = None
    if combination_type == "svd":
        limit = svd_rank or max(_width(tuner, name) for name in adapters)
    sizes = _joint_sizes(tuner, adapters, limit)
    # Before anything is made that a failure would leave.
    forms = {name: _sum(tuner, name, adapters, weights) for name in sizes}
    tuner.peft_config[adapter_name] = _joint_config(tuner, adapters, sizes, rows_from)
    try:
        tuner.inject_adapter(tuner.model, adapter_name)
    except Exception:
        tuner.peft_config.pop(adapter_name, None)
        raise
    tuner._cast_adapter_dtype(adapter_name)
    for wrapper, state in states.items():
        wrapper.modules_to_save[adapter_name].load_state_dict(state)
    copy_rows(tuner.model, str(rows_from), tuner.model, adapter_name)
    return _fill(tuner, adapter_name, sizes, forms)


def _joint_config(
    tuner: AdaptedModel, adapters: list[str], sizes: dict[str, int], rows_from: str | None
) -> Lora2Config:
    """Return the config of the sum, which names every module that it changes."""
    config: Lora2Config = replace(
        tuner.peft_config[adapters[0]],
        **fields_of_sizes(sizes, tuner.model),
        target_r=None,
        alpha_pattern={},
        orthogonality="none",
        init_weights=True,
        lora_dropout=0.0,
        modules_to_save=names_of_heads(tuner, adapters),
        trainable_token_indices=indices_of(tuner, rows_from),
        # The targets are full names, so fields that choose some of them have nothing to say.
        exclude_modules=None,
        layers_to_transform=None,
        layers_pattern=None,
        inference_mode=True,
    )
    return config


def _fill(
    tuner: AdaptedModel,
    adapter_name: str,
    sizes: dict[str, int],
    forms: dict[str, tuple[Tensor, Tensor, Tensor]],
) -> float:
    """Write the sum into the new adapter; return the share of its norm that its sizes leave out."""
    lost = all_of_it = 0.0
    for name, layer in lora2_layers(tuner.model, adapter_name).items():
        layer.set_change(adapter_name, *forms[name])
        squares = forms[name][1].square()
        lost += float(squares[sizes[name] :].sum())
        all_of_it += float(squares.sum())
    return math.sqrt(lost / all_of_it) if all_of_it else 0.0


def _checked(
    tuner: AdaptedModel, adapters: Sequence[str], weights: Sequence[float]
) -> tuple[list[str], list[float]]:
    """Return the names and their weights as lists of texts and of floats."""
    if not is_sequence(adapters):
        raise UserError(
            f"adapters={as_shown(adapters)} must be a list of names, such as ['default']."
        )
    if not is_sequence(weights):
        raise UserError(
            f"weights={as_shown(weights)} must be a list of numbers, one for each adapter, such as "
            "[1.0]."
        )
    if not len(adapters) or len(adapters) != len(weights):
        raise UserError(
            f"adapters has {len(adapters)} names and weights {len(weights)} numbers: give one "
            "weight for each adapter, and at least one."
        )
    known = tuner.peft_config
    unknown = [name for name in adapters if not isinstance(name, str) or name not in known]
    if unknown:
        raise UserError(
            f"adapters={unknown} do not exist in this model: choose from {list(known)}."
        )
    for weight in weights:
        if not is_finite_number(weight):
            raise UserError(f"weights: {shortened(weight)} must be a finite number.")
    return list(adapters), [float(weight) for weight in weights]


def _check_choices(combination_type: str, svd_rank: int | None, heads: Heads) -> None:
    if not isinstance(combination_type, str) or combination_type not in COMBINATION_TYPES:
        raise UserError(
            f"combination_type={combination_type!r} is not known: choose one of "
            f"{', '.join(COMBINATION_TYPES)}."
        )
    if not isinstance(heads, str) or heads not in get_args(Heads):
        raise UserError(
            f"heads={heads!r} is not known: choose one of {', '.join(get_args(Heads))}."
        )
    if svd_rank is not None and not (fits(svd_rank, int) and svd_rank > 0):
        raise UserError(f"svd_rank={svd_rank!r} must be a whole number of at least 1.")


def _width(tuner: AdaptedModel, adapter_name: str) -> int:
    layers = lora2_layers(tuner.model, adapter_name).values()
    return max(layer.sizes_of(adapter_name)[0] for layer in layers)


def _joint_sizes(tuner: AdaptedModel, adapters: list[str], limit: int | None) -> dict[str, int]:
    """The sum's k by name of the module, for all modules that carry one of the adapters."""
    sizes: dict[str, int] = {}
    for adapter in adapters:
        for name, layer in lora2_layers(tuner.model, adapter).items():
            largest = min(*layer.matrix_shape(), limit or sys.maxsize)
            k, _ = layer.sizes_of(adapter)
            sizes[name] = min(sizes.get(name, 0) + k, largest)
    return sizes


def _sum(
    tuner: AdaptedModel, module: str, adapters: list[str], weights: list[float]
) -> tuple[Tensor, Tensor, Tensor]:
    """The weighted sum in one module, as (X, σ, Y) in float64."""
    layer: Any = tuner.model.get_submodule(module)
    pairs = [
        (weight * B, A)
        for name, weight in zip(adapters, weights, strict=True)
        if layer.has_adapter(name)
        for B, A in [layer.factors(name, torch.float64)]
    ]
    if not all(factor.isfinite().all() for pair in pairs for factor in pair):
        raise NumericalError(
            f"{module}: an adapter holds NaN or infinity, or its weight in the sum is too large; "
            "write a smaller weight, or train the adapter again."
        )
    B, A = torch.cat([B for B, _ in pairs], dim=1), torch.cat([A for _, A in pairs], dim=0)
    X, sigma, Y = singular_value_form(B, A)
    if not sigma.float().isfinite().all():
        raise NumericalError(
            f"{module}: the weighted sum is too large for float32; write smaller weights."
        )
    added = (B.norm(dim=0) * A.norm(dim=1)).sum()
    return X, sigma.where(sigma > _NEGLIGIBLE * added, 0.0), Y
