"""Which singular values of an adapter are kept: a mask over those of all its matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lora2.mathematics.allocation import keep_most_important
from lora2.tuners.base.distributed.gathering import multiply, whole
from lora2.tuners.base.distributed.zero import is_any_trained_by_zero
from lora2.tuners.lora2.allocation.frozen_matrices import FrozenValues, are_frozen
from lora2.tuners.lora2.allocation.parameter_budget import keep_within_parameters
from lora2.tuners.lora2.config import BudgetUnit
from lora2.tuners.lora2.layer import Lora2Layer
from lora2.tuners.lora2.matrix_size import MatrixSize


class KeptSet:
    """The kept singular values of one adapter, and what they cost.

    Attributes:
        mask: true for what is kept, over the singular values of all matrices in the order of the
            layers.
        matrices: what decides how large each matrix's change is.
    """

    def __init__(
        self, layers: Mapping[str, Lora2Layer], adapter_name: str, unit: BudgetUnit
    ) -> None:
        self._layers = layers
        self._adapter_name = adapter_name
        self.matrices = [layer.matrix_size(adapter_name) for layer in layers.values()]
        self._ranks = [matrix.r for matrix in self.matrices]
        self.mask = torch.ones(sum(self._ranks), dtype=torch.bool, device=self.device)
        # None: each value costs 1, and nothing has to be added up.
        self._costs = (
            None if unit == "values" else self.by_value([each.cost for each in self.matrices])
        )

    @property
    def device(self) -> torch.device:
        """The device of the first matrix, where the set is decided."""
        return self.singular_values()[0].device

    @property
    def count(self) -> int:
        """Singular values kept, over all matrices."""
        return int(self.mask.sum())

    @property
    def spent(self) -> int:
        """What is kept over all matrices, in the unit of the budget."""
        return self.spent_on(self.mask)

    def spent_on(self, mask: Tensor) -> int:
        """What another mask would keep over all matrices, in the unit of the budget."""
        if self._costs is None:
            return int(mask.sum())
        kept = torch.stack([part.sum() for part in mask.split(self._ranks)]).tolist()
        return sum(map(MatrixSize.parameters, self.matrices, kept))

    def leaves_room(self, mask: Tensor, budget: int) -> bool:
        """Whether another mask keeps less than it could; only a budget of values is spent whole."""
        if self._costs is not None:
            return False
        frozen = self.frozen()
        return int((mask if frozen is None else mask | frozen.gone).sum()) < budget

    def by_module(self, mask: Tensor | None = None) -> dict[str, int]:
        """Singular values kept, or those of another mask, by module name."""
        parts = (self.mask if mask is None else mask).split(self._ranks)
        return {name: int(part.sum()) for name, part in zip(self._layers, parts, strict=True)}

    def frozen(self) -> FrozenValues | None:
        """Return the singular values of the matrices that are frozen; None if none is."""
        are = are_frozen(self._layers.values(), self._adapter_name)
        if not any(are):
            return None
        frozen, nonzero = self.by_value(are), self._nonzero()
        return FrozenValues(fixed=frozen & nonzero, gone=frozen & ~nonzero)

    def choose(self, importance: Tensor, budget: int, frozen: FrozenValues | None) -> None:
        """Keep the most important values [all] that the budget has room for."""
        if frozen is not None:
            importance = frozen.ranked(importance)
        if self._costs is None:
            mask = keep_most_important(importance, budget)
        else:
            mask = keep_within_parameters(importance, budget, self._costs, self.matrices)
        self.mask = mask if frozen is None else mask & ~frozen.gone

    def apply(self) -> None:
        """Set the values to zero that are not kept."""
        values = self.singular_values()
        mask = self.mask.to(values[0].dtype).split(self._ranks)
        multiply(values, [part.to(value.device) for part, value in zip(mask, values, strict=True)])

    def hold(self) -> None:
        """Let values that are not kept count as zero, whatever an optimizer makes of them."""
        for layer, part in zip(self._layers.values(), self.mask.split(self._ranks), strict=True):
            values = layer.parameters_of(self._adapter_name)["lam"]
            # ZeRO has neither the values nor a place to put them outside a forward pass.
            if not is_any_trained_by_zero([values]) and not part.all():
                layer.lora2_states[self._adapter_name].pruned = ~part

    def read(self) -> None:
        """Take as kept what is not zero in the model."""
        self.mask = self._nonzero()

    def by_value(self, by_matrix: Sequence[int] | Sequence[bool]) -> Tensor:
        """Return numbers of the matrices, one for each of their singular values."""
        repeated = torch.tensor(by_matrix).repeat_interleave(torch.tensor(self._ranks))
        return repeated.to(self.device)

    def singular_values(self) -> list[Tensor]:
        """Return λ [r] of each matrix, as it is stored."""
        name = self._adapter_name
        return [layer.parameters_of(name)["lam"] for layer in self._layers.values()]

    def _nonzero(self) -> Tensor:
        values = whole(self.singular_values())
        return torch.cat([value.to(self.device) for value in values]) != 0
