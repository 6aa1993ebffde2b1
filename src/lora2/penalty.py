"""The orthogonality penalty of a whole model: one batched computation per shape of matrix."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lora2.config import Lora2Config
from lora2.layers.base import Lora2Layer
from lora2.mathematics import orthogonality


def adapted_layers(model: nn.Module, adapter_name: str) -> dict[str, Lora2Layer]:
    """Return the layers that carry the adapter, by module name in the order of the model."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, Lora2Layer) and module.has_adapter(adapter_name)
    }


def group_by_shape(
    layers: Iterable[Lora2Layer], adapter_name: str
) -> dict[tuple[int, int, int, int], list[int]]:
    """Return positions of the layers whose factors have the same (d_in, k, r, d_out)."""
    groups: dict[tuple[int, int, int, int], list[int]] = {}
    for position, layer in enumerate(layers):
        parameters = layer.parameters_of(adapter_name)
        shape = (*parameters["v"].shape, len(parameters["lam"]), parameters["V"].shape[1])
        groups.setdefault(shape, []).append(position)
    return groups


def orthogonality_penalty(model: nn.Module, adapter_name: str, config: Lora2Config) -> Tensor:
    """Return eq. 5, the mean over the adapted matrices of a model, without its weight; a scalar."""
    return penalty_of_layers(adapted_layers(model, adapter_name).values(), adapter_name, config)


def penalty_of_layers(
    layers: Iterable[Lora2Layer], adapter_name: str, config: Lora2Config
) -> Tensor:
    """Return eq. 5, the mean over those of the layers that carry the adapter; a scalar.

    Deviation from the paper, which sums: with the mean one weight serves models of any depth. The
    authors' released code takes the mean too.
    """
    adapted = [layer for layer in layers if layer.has_adapter(adapter_name)]
    total: Tensor | float = 0.0
    for positions in group_by_shape(adapted, adapter_name).values():
        stored = [adapted[position].stored_factors(adapter_name) for position in positions]
        v, u, U, V = (torch.stack([f[symbol] for f in stored]) for symbol in ("v", "u", "U", "V"))
        with torch.autocast(v.device.type, enabled=False):
            total = total + orthogonality.penalty(v, u, U, V, config.orthogonality_terms).sum()
    return torch.as_tensor(total) / max(len(adapted), 1)
