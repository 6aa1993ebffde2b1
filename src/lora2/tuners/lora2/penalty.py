"""The orthogonality penalty of a whole model: batched over its matrices."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from lora2.mathematics import orthogonality
from lora2.mathematics.gram import gram_matrices
from lora2.mathematics.orthogonality import OrthogonalityTerms
from lora2.mathematics.precision import in_full_precision, without_autocast
from lora2.tuners.base.distributed.gathering import check_size, is_plain, whole_in_graph
from lora2.tuners.lora2.config import Lora2Config
from lora2.tuners.lora2.layer import Lora2Layer
from lora2.tuners.lora2.trained_adapters import trained_among

_CONSTRAINED = ("v", "u", "U", "V")


def penalty_of_model(model: nn.Module, layers: list[Lora2Layer]) -> Tensor | None:
    """Return the weighted penalty of a base model with these layers; None where there is none."""
    terms = [
        config.orth_reg_weight * penalty_of_layers(layers, name, config)
        for name, config in trained_among(layers, model)
        if config.has_penalty
    ]
    return torch.stack(terms).sum() if terms else None


def penalty_of_layers(
    layers: Iterable[Lora2Layer], adapter_name: str, config: Lora2Config
) -> Tensor:
    """Return eq. 5, the mean over those of the layers that carry the adapter; a scalar.

    Deviation from the paper, which sums: with the mean one weight serves models of any depth. The
    authors' released code takes the mean too.
    """
    by_size: dict[tuple[object, ...], list[Mapping[str, Tensor]]] = {}
    carrying = [layer for layer in layers if layer.has_effect(adapter_name)]
    for factors in _whole_factors(carrying, adapter_name):
        u = factors["u"]
        by_size.setdefault((u.shape, u.device, u.dtype), []).append(factors)
    totals = [_total_of(members, config.orthogonality_terms) for members in by_size.values()]
    count = sum(map(len, by_size.values()))
    # A model may be split over devices.
    return torch.as_tensor(sum(total.to(totals[0].device) for total in totals)) / max(count, 1)


def _whole_factors(
    layers: Sequence[Lora2Layer], adapter_name: str
) -> Sequence[Mapping[str, Tensor]]:
    """The factors of each layer as wholes: FSDP2 shards them again after a forward pass."""
    held = [layer.parameters_of(adapter_name) for layer in layers]
    for layer, factors in zip(layers, held, strict=True):
        size = layer.sizes_of(adapter_name)
        if factors["u"].shape != size:
            check_size(factors["u"], size, f"u of adapter {adapter_name!r}")
    together = [factors[symbol] for factors in held for symbol in _CONSTRAINED]
    if is_plain(together):
        return held
    found = iter(whole_in_graph(together))
    return [{symbol: next(found) for symbol in _CONSTRAINED} for _ in held]


def _total_of(members: Sequence[Mapping[str, Tensor]], terms: OrthogonalityTerms) -> Tensor:
    """The sum over layers that share k and r."""
    with without_autocast(members[0]["u"]):
        left_grams, right_grams = (
            gram_matrices([factors[symbol] for factors in members]) for symbol in "vV"
        )
        u, U = (
            in_full_precision(torch.stack([factors[symbol] for factors in members]))
            for symbol in "uU"
        )
        return orthogonality.penalty(left_grams, right_grams, u, U, terms).sum()
