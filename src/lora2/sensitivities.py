"""Running sensitivities of the scored factors, batched over the matrices of one shape."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lora2.layers.lora2_layer import Lora2Layer
from lora2.mathematics.importance import (
    full_importance,
    reduced_importance,
    sensitivity,
    update_averages,
)

_AVERAGE, _UNCERTAINTY = "average", "uncertainty"


class SensitivityGroup:
    """Layers of one shape, whose sensitivities are one stacked tensor per factor."""

    def __init__(
        self, layers: list[Lora2Layer], positions: list[int], symbols: list[str], adapter_name: str
    ) -> None:
        self.positions = positions
        self._layers = layers
        self._symbols = symbols
        self._adapter_name = adapter_name
        self.state: dict[str, Tensor] = {
            f"{symbol}.{kind}": torch.zeros_like(weight, dtype=torch.float32)
            for symbol, weight in self._stacked(self._parameters(), _data).items()
            for kind in (_AVERAGE, _UNCERTAINTY)
        }

    def update(self, beta1: float, beta2: float) -> None:
        """Take in the present weights and gradients, unless a gradient has overflowed."""
        parameters = self._parameters()
        weights = self._stacked(parameters, _data)
        gradients = self._stacked(parameters, _gradient_or_zero)
        # float16's loss scaler skips such a step, and an average would stay infinite ever after.
        # Decided on the device: nothing waits.
        sums = [gradient.sum(dtype=torch.float32) for gradient in gradients.values()]
        finite = torch.stack(sums).sum().isfinite()
        for symbol in self._symbols:
            average, uncertainty = f"{symbol}.{_AVERAGE}", f"{symbol}.{_UNCERTAINTY}"
            old = self.state[average], self.state[uncertainty]
            new = update_averages(
                *old, weights[symbol], gradients[symbol], beta1=beta1, beta2=beta2
            )
            self.state[average], self.state[uncertainty] = (
                torch.where(finite, *pair) for pair in zip(new, old, strict=True)
            )

    def importance(self) -> Tensor:
        """Importance of every singular value, [layers, r]."""
        scores = {
            symbol: sensitivity(
                self.state[f"{symbol}.{_AVERAGE}"], self.state[f"{symbol}.{_UNCERTAINTY}"]
            )
            for symbol in self._symbols
        }
        if "v" in scores:
            return full_importance(
                scores["lam"], scores["u"], scores["U"], scores["v"], scores["V"]
            )
        return reduced_importance(scores["lam"], scores["u"], scores["U"])

    def _parameters(self) -> list[dict[str, nn.Parameter]]:
        return [layer.parameters_of(self._adapter_name) for layer in self._layers]

    def _stacked(
        self, parameters: list[dict[str, nn.Parameter]], take: Callable[[nn.Parameter], Tensor]
    ) -> dict[str, Tensor]:
        return {
            symbol: torch.stack([take(factors[symbol]) for factors in parameters])
            for symbol in self._symbols
        }


def _data(parameter: nn.Parameter) -> Tensor:
    return parameter.data


def _gradient_or_zero(parameter: nn.Parameter) -> Tensor:
    # A matrix that a batch did not reach has no gradient: for this step it is not sensitive.
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
