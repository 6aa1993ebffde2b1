"""Matrices whose change is to stay as it is while others of the adapter are trained."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from lora2.tuners.base.distributed.gathering import whole
from lora2.tuners.lora2.layer import Lora2Layer


@dataclass(frozen=True)
class FrozenValues:
    """The singular values of frozen matrices, as masks [n] over those of all matrices.

    Attributes:
        fixed: those that are not zero, which stay.
        gone: those that were pruned before, which cannot come back.
    """

    fixed: Tensor
    gone: Tensor

    def ranked(self, importance: Tensor) -> Tensor:
        """Return the importance [n] with fixed values above all others and pruned ones below.

        A change that is not trained is to stay as it is, and no gradient says what it is worth.
        """
        return importance.masked_fill(self.fixed, torch.inf).masked_fill(self.gone, -torch.inf)


def are_frozen(layers: Iterable[Lora2Layer], adapter_name: str) -> list[bool]:
    """Return for each matrix whether it is not trained, though it changes its weight."""
    factors = [layer.parameters_of(adapter_name) for layer in layers]
    if all(each["lam"].requires_grad for each in factors):
        return [False] * len(factors)
    Vs = whole([each["V"].detach() for each in factors])
    return [
        not each["lam"].requires_grad and bool(V.any()) for each, V in zip(factors, Vs, strict=True)
    ]
