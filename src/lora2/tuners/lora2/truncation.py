"""An adapter cut after training: one threshold on all singular values of a model.

The cut of PARA (arXiv 2604.27796): what is below the threshold is left out in every matrix, so that
the size of an adapter can be chosen without training again.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn

from lora2.errors import UserError
from lora2.mathematics.low_rank import rank as rank_of
from lora2.mathematics.low_rank import singular_value_form
from lora2.support.ranges import SIZE, Range, check_number
from lora2.tuners.base.distributed.gathering import is_sharded
from lora2.tuners.base.finite_checks import check_factors
from lora2.tuners.lora2.layer import Lora2Layer, lora2_layers


@dataclass(frozen=True)
class Truncation:
    """What a cut has left, and what it cost.

    Attributes:
        ranks: singular values left, by module name.
        errors: Frobenius norm of what was left out over that of the change, by module name.
        error: the same over all modules together.
        parameters: numbers of a LoRA with these ranks, Σ rank · (d_in + d_out). The file of
            PEFT's LoRA has more for grouped convolutions and for experts, since PEFT gives all
            groups, or all experts, one rank.
    """

    ranks: dict[str, int]
    errors: dict[str, float]
    error: float
    parameters: int


@torch.no_grad()
def truncate_adapter(
    model: nn.Module,
    adapter_name: str = "default",
    *,
    rank: float | None = None,
    size: float | None = None,
) -> Truncation:
    """Cut a trained LoRA² adapter in place, at one threshold on all its singular values.

    The parameters are new tensors afterwards: an optimizer made before does not know them.

    Args:
        model: a model with the adapter; `import_lora` makes one of a LoRA or AdaLoRA.
        adapter_name: the adapter.
        rank: singular values to keep, on average over the matrices; may be a fraction.
        size: parameters to keep at most, counted as a LoRA's; below 1, a share of those it has.

    Raises:
        UserError: no such adapter, one that changes nothing or is split over processes, not one of
            the two numbers, or one out of its range.
        NumericalError: NaN or infinity in the adapter.
    """
    layers = lora2_layers(model, adapter_name)
    if not layers:
        raise UserError(
            f"adapter_name={adapter_name!r}: the model has no LoRA² adapter of that name to cut."
        )
    _check(rank, size)
    factors = [
        each for layer in layers.values() for each in layer.parameters_of(adapter_name).values()
    ]
    if any(map(is_sharded, factors)):
        raise UserError(
            f"adapter_name={adapter_name!r}: the adapter is split over several processes; call "
            "save_pretrained in all of them, load it in one process, and cut it there."
        )
    check_factors(model, adapter_name, f"adapter {adapter_name!r}")
    forms = {
        name: singular_value_form(*layer.factors(adapter_name, torch.float64))
        for name, layer in layers.items()
    }
    spectra = {name: sigma[: rank_of(sigma)].tolist() for name, (_, sigma, _) in forms.items()}
    if not any(spectra.values()):
        raise UserError(
            f"adapter_name={adapter_name!r}: the adapter changes nothing, so that nothing of it "
            "could be kept; train it before it is cut."
        )
    costs = {name: sum(layer.matrix_shape()) for name, layer in layers.items()}
    ranks = kept_ranks(spectra, costs, rank=rank, size=size)
    if not any(ranks.values()):
        first = max((name for name in spectra if spectra[name]), key=lambda name: spectra[name][0])
        share = "a larger share of all" if size and size < 1 else "a share of all such as 0.5"
        raise UserError(
            f"size={size:g}: the most important singular value alone, one of {first}, has "
            f"{costs[first]:,} parameters; write at least so many, or {share}."
        )
    for name, layer in layers.items():
        _cut(layer, adapter_name, ranks[name], *forms[name])
    return _truncation(spectra, costs, ranks)


def kept_ranks(
    spectra: Mapping[str, Sequence[float]],
    costs: Mapping[str, int],
    *,
    rank: float | None = None,
    size: float | None = None,
) -> dict[str, int]:
    """Return how many singular values of each matrix are above the lowest threshold that fits.

    Args:
        spectra: singular values of each matrix, falling.
        costs: parameters that one value of each matrix costs.
        rank: values to keep, on average over the matrices.
        size: parameters to keep at most; below 1, a share of those of all values.
    """
    # The order of equal values is that of the modules.
    ranked = sorted(
        ((value, name) for name, values in spectra.items() for value in values),
        key=lambda entry: -entry[0],
    )
    names = [name for _, name in ranked]
    if rank is not None:
        most = max(1, round(rank * len(spectra)))
    else:
        spent = list(accumulate(costs[name] for name in names))
        limit = size or 0.0
        if limit < 1 and spent:
            limit *= spent[-1]
        # A share of whole values, such as 0.57 of 100, can come out slightly below their number.
        most = bisect_right(spent, limit * (1 + 1e-12))
    kept = Counter(names[:most])
    return {name: kept[name] for name in spectra}


def _cut(
    layer: Lora2Layer, adapter_name: str, rank: int, X: Tensor, sigma: Tensor, Y: Tensor
) -> None:
    old_k, _ = layer.sizes_of(adapter_name)
    layer.resize_adapter(adapter_name, rank, rank)
    layer.set_change(adapter_name, X, sigma, Y)
    if rank < old_k:
        layer.lora2_states[adapter_name].is_narrowed = True


def _truncation(
    spectra: Mapping[str, Sequence[float]], costs: Mapping[str, int], ranks: Mapping[str, int]
) -> Truncation:
    lost = {name: _square(values[ranks[name] :]) for name, values in spectra.items()}
    whole = {name: _square(values) for name, values in spectra.items()}
    return Truncation(
        ranks=dict(ranks),
        errors={name: _share(lost[name], whole[name]) for name in spectra},
        error=_share(sum(lost.values()), sum(whole.values())),
        parameters=sum(costs[name] * kept for name, kept in ranks.items()),
    )


def _square(values: Sequence[float]) -> float:
    return math.fsum(value * value for value in values)


def _share(lost: float, whole: float) -> float:
    return math.sqrt(lost / whole) if whole else 0.0


def _check(rank: float | None, size: float | None) -> None:
    if (rank is None) == (size is None):
        raise UserError(f"rank={rank} and size={size}: give one of the two, and not both.")
    name, value = ("rank", rank) if rank is not None else ("size", size)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < (value or 0) < math.inf:
        raise UserError(f"{name}={value!r} must be a number above 0, such as 2.")
    if rank is not None:
        check_number("rank", rank, Range(0, SIZE.below, open=True))
