"""What TRL's trainers do to adapters, and what LoRA² repairs before it is trained."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lora2.tuners.base.model.placement import PlacedAdapter
from lora2.tuners.base.token_rows.finding import copy_rows
from lora2.tuners.lora2.config import Lora2Config
from lora2.tuners.lora2.layer import lora2_layers
from lora2.tuners.lora2.precise_parameters import make_precise

# TRL's name for the copy of the trained adapter that it compares with.
_REFERENCE = "ref"


@torch.no_grad()
def keep_small_factors_precise(adapter: PlacedAdapter[Lora2Config]) -> None:
    """Make u, Λ and 𝒰 float32: on a quantized base TRL casts all adapters to bfloat16.

    Before the model is wrapped for training, which may depend on the dtypes.
    """
    for layer in lora2_layers(adapter.module, adapter.name).values():
        make_precise(layer.parameters_of(adapter.name))


@torch.no_grad()
def fill_reference(adapter: PlacedAdapter[Lora2Config]) -> None:
    """Give TRL's reference adapter, made of the trained one's config, the values of that one.

    TRL copies them by names with a dot after the adapter's, as LoRA's tensors have and ours do
    not; the reference would be the base model. One that has values is left as it is.
    """
    if adapter.configs.get(_REFERENCE) is not adapter.config:
        return
    layers = lora2_layers(adapter.module, _REFERENCE).values()
    if any(_changes_something(layer.parameters_of(_REFERENCE)) for layer in layers):
        return
    for layer in layers:
        trained = layer.parameters_of(adapter.name)
        # Pruned in memory, the trained one is smaller than its config says.
        layer.resize_adapter(_REFERENCE, *layer.sizes_of(adapter.name))
        for symbol, parameter in layer.parameters_of(_REFERENCE).items():
            parameter.copy_(trained[symbol])
    copy_rows(adapter.module, adapter.name, adapter.module, _REFERENCE)


def _changes_something(factors: Mapping[str, Tensor]) -> bool:
    return bool(factors["lam"].any() and factors["V"].any())
