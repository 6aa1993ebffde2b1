"""Matrices whose change is to stay as it is while others of the adapter are trained."""

from __future__ import annotations

from collections.abc import Iterable

from lora2.tuners.base.distributed.gathering import whole
from lora2.tuners.lora2.layer import Lora2Layer


def are_frozen(layers: Iterable[Lora2Layer], adapter_name: str) -> list[bool]:
    """Return for each matrix whether it is not trained, though it changes its weight."""
    factors = [layer.parameters_of(adapter_name) for layer in layers]
    if all(each["lam"].requires_grad for each in factors):
        return [False] * len(factors)
    Vs = whole([each["V"].detach() for each in factors])
    return [
        not each["lam"].requires_grad and bool(V.any()) for each, V in zip(factors, Vs, strict=True)
    ]
