"""Which singular values of an adapter are kept: a mask over those of all its matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lora2.mathematics.allocation import keep_most_important
from lora2.tuners.base.distributed.gathering import multiply, whole
from lora2.tuners.base.distributed.zero import is_any_trained_by_zero
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
    def is_exact(self) -> bool:
        """Whether a budget is spent whole; of parameters, less than a value costs is left."""
        return self._costs is None

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

    def by_module(self) -> dict[str, int]:
        """Singular values kept, by module name."""
        return {
            name: int(part.sum()) for name, part in zip(self._layers, self._parts(), strict=True)
        }

    def choose(self, importance: Tensor, budget: int) -> None:
        """Keep the most important values [all] that the budget has room for."""
        if self._costs is None:
            self.mask = keep_most_important(importance, budget)
        else:
            self.mask = keep_within_parameters(importance, budget, self._costs, self.matrices)

    def apply(self) -> None:
        """Set the values to zero that are not kept."""
        values = self.singular_values()
        mask = self.mask.to(values[0].dtype).split(self._ranks)
        multiply(values, [part.to(value.device) for part, value in zip(mask, values, strict=True)])

    def hold(self) -> None:
        """Let values that are not kept count as zero, whatever an optimizer makes of them."""
        for layer, part in zip(self._layers.values(), self._parts(), strict=True):
            values = layer.parameters_of(self._adapter_name)["lam"]
            # ZeRO has neither the values nor a place to put them outside a forward pass.
            if not is_any_trained_by_zero([values]) and not part.all():
                layer.lora2_states[self._adapter_name].pruned = ~part

    def read(self) -> None:
        """Take as kept what is not zero in the model."""
        values = whole(self.singular_values())
        self.mask = torch.cat([value.to(self.device) for value in values]) != 0

    def by_value(self, by_matrix: Sequence[int] | Sequence[bool]) -> Tensor:
        """Return numbers of the matrices, one for each of their singular values."""
        repeated = torch.tensor(by_matrix).repeat_interleave(torch.tensor(self._ranks))
        return repeated.to(self.device)

    def singular_values(self) -> list[Tensor]:
        """Return λ [r] of each matrix, as it is stored."""
        name = self._adapter_name
        return [layer.parameters_of(name)["lam"] for layer in self._layers.values()]

    def _parts(self) -> tuple[Tensor, ...]:
        return self.mask.split(self._ranks)
