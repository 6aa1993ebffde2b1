"""The orthogonality penalty of a whole model: batched over its matrices."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lora2.mathematics import orthogonality
from lora2.mathematics.gram import gram_matrices
from lora2.mathematics.orthogonality import OrthogonalityTerms
from lora2.mathematics.precision import in_full_precision
from lora2.tuners.lora2.config import Lora2Config
from lora2.tuners.lora2.layer import Lora2Layer, adapted_layers


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
    by_size: dict[tuple[object, ...], list[dict[str, nn.Parameter]]] = {}
    for layer in layers:
        if layer.has_effect(adapter_name):
            parameters = layer.parameters_of(adapter_name)
            u = parameters["u"]
            by_size.setdefault((u.shape, u.device, u.dtype), []).append(parameters)
    totals = [_total_of(members, config.orthogonality_terms) for members in by_size.values()]
    count = sum(map(len, by_size.values()))
    # A model may be split over devices.
    return torch.as_tensor(sum(total.to(totals[0].device) for total in totals)) / max(count, 1)


def _total_of(members: list[dict[str, nn.Parameter]], terms: OrthogonalityTerms) -> Tensor:
    """The sum over layers that share k and r."""
    with torch.autocast(members[0]["u"].device.type, enabled=False):
        left_grams, right_grams = (
            gram_matrices([factors[symbol] for factors in members]) for symbol in "vV"
        )
        u, U = (
            in_full_precision(torch.stack([factors[symbol] for factors in members]))
            for symbol in "uU"
        )
        return orthogonality.penalty(left_grams, right_grams, u, U, terms).sum()
