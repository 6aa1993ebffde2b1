"""The importance of all singular values of an adapter, from what the steps of training show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from lora2.errors import UserError
from lora2.mathematics.importance import IMPORTANCES
from lora2.tuners.base.distributed.gathering import whole_gradients
from lora2.tuners.base.distributed.zero import RecordedGradients, is_any_trained_by_zero
from lora2.tuners.lora2.allocation.sensitivities import SensitivityGroup, group_by_shape
from lora2.tuners.lora2.config import Lora2Config
from lora2.tuners.lora2.layer import Lora2Layer


class ModelImportance:
    """The importance of each singular value of one adapter, averaged over steps.

    Matrices whose factors have the same sizes are scored in one batch.

    Args:
        layers: the layers with the adapter, in the order of the model.
        adapter_name: the adapter.
        config: says which factors are scored, and how fast averages follow.
    """

    def __init__(
        self, layers: Iterable[Lora2Layer], adapter_name: str, config: Lora2Config
    ) -> None:
        self._layers = list(layers)
        self._adapter_name = adapter_name
        self._config = config
        score = IMPORTANCES[config.importance]
        self.groups = [
            SensitivityGroup([self._layers[i] for i in positions], positions, score, adapter_name)
            for positions in group_by_shape(self._layers, score.symbols, adapter_name)
        ]
        self._order = self._order_of_groups()
        self._recorded: RecordedGradients | None = None

    def begin(self) -> None:
        """Begin to record gradients where the engine clears them before a step has ended."""
        if self._is_trained_by_zero():
            self._recorded = RecordedGradients(
                parameter for group in self.groups for parameter in group.factors()
            )

    def update(self) -> None:
        """Take in the weights and gradients of a step.

        Raises:
            UserError: no parameter of the adapter has a gradient, or DeepSpeed has taken the model
                over since this was made and clears them.
        """
        if self._recorded is None and self._is_trained_by_zero():
            raise UserError(
                f"The RankAllocator of adapter {self._adapter_name!r} was made before DeepSpeed "
                "took the model over, and ZeRO clears the gradients before step() is called: make "
                "it after deepspeed.initialize() or accelerator.prepare()."
            )
        if not self._has_gradients():
            raise UserError(
                f"No parameter of adapter {self._adapter_name!r} has a gradient: call step() after "
                "optimizer.step() and before zero_grad()."
            )
        for group in self.groups:
            group.update(self._config.beta1, self._config.beta2, self._recorded or whole_gradients)

    def of_all(self, device: torch.device) -> Tensor:
        """Return the importance of each singular value, in the order of the model, on a device."""
        # A model may be split over devices; the ranking is one.
        parts = [group.importance().flatten().to(device) for group in self.groups]
        return torch.cat(parts)[self._order.to(device)]

    def end_step(self, *, is_last: bool) -> None:
        """Forget the gradients that were recorded; after the last step none are recorded."""
        if self._recorded is not None:
            self._recorded.clear()
            if is_last:
                self._recorded.stop()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the averages."""
        return {
            f"group{index}.{key}": value
            for index, group in enumerate(self.groups)
            for key, value in group.state.items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take the averages from a state that `state_dict` gave."""
        for index, group in enumerate(self.groups):
            group.state = {
                key: state[f"group{index}.{key}"].to(value.device, value.dtype)
                for key, value in group.state.items()
            }

    def _order_of_groups(self) -> Tensor:
        """Return the position among the groups of each singular value, in the model's order."""
        ranks = [layer.sizes_of(self._adapter_name)[1] for layer in self._layers]
        own = torch.arange(sum(ranks)).split(ranks)
        grouped = torch.cat([own[i] for group in self.groups for i in group.positions])
        return grouped.argsort().to(self._singular_values()[0].device)

    def _has_gradients(self) -> bool:
        if self._recorded is not None:
            return not self._recorded.is_empty
        factors = (layer.parameters_of(self._adapter_name) for layer in self._layers)
        return any(p.grad is not None for by_symbol in factors for p in by_symbol.values())

    def _is_trained_by_zero(self) -> bool:
        return is_any_trained_by_zero(self._singular_values())

    def _singular_values(self) -> list[Tensor]:
        return [layer.parameters_of(self._adapter_name)["lam"] for layer in self._layers]
