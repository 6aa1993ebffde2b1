"""Running sensitivities of the scored factors, batched over matrices that are scored alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from lora2.mathematics.importance import ImportanceScore, sensitivity, update_averages
from lora2.tuners.lora2.layer import Lora2Layer

_AVERAGE, _UNCERTAINTY = "average", "uncertainty"


class SensitivityGroup:
    """Layers whose scored factors have the same sizes: one row of numbers for each layer.

    Attributes:
        positions: of the layers in the model.
        state: average and uncertainty, [layers, scored numbers of a layer] in float32.
    """

    def __init__(
        self,
        layers: list[Lora2Layer],
        positions: list[int],
        importance: ImportanceScore,
        adapter_name: str,
    ) -> None:
        self.positions = positions
        self._layers = layers
        self._formula, self._symbols = importance.formula, importance.symbols
        self._adapter_name = adapter_name
        first = layers[0].parameters_of(adapter_name)
        self._shapes = [first[symbol].shape for symbol in self._symbols]
        rows = torch.zeros_like(self._rows(self._parameters(), _data), dtype=torch.float32)
        self.state: dict[str, Tensor] = {_AVERAGE: rows, _UNCERTAINTY: rows.clone()}

    def update(self, beta1: float, beta2: float) -> None:
        """Take in the present weights and gradients, unless a gradient has overflowed."""
        parameters = self._parameters()
        weights = self._rows(parameters, _data)
        gradients = self._rows(parameters, _gradient_or_zero)
        # float16's loss scaler skips such a step, and an average would stay infinite ever after.
        # Decided on the device: nothing waits.
        finite = gradients.sum(dtype=torch.float32).isfinite()
        old = self.state[_AVERAGE], self.state[_UNCERTAINTY]
        new = update_averages(*old, weights, gradients, beta1=beta1, beta2=beta2)
        self.state[_AVERAGE], self.state[_UNCERTAINTY] = (
            torch.where(finite, *pair) for pair in zip(new, old, strict=True)
        )

    def importance(self) -> Tensor:
        """Importance of every singular value, [layers, r]."""
        rows = sensitivity(self.state[_AVERAGE], self.state[_UNCERTAINTY])
        parts = rows.split([math.prod(shape) for shape in self._shapes], -1)
        scores = (
            part.unflatten(-1, shape) for shape, part in zip(self._shapes, parts, strict=True)
        )
        return self._formula(*scores)

    def _parameters(self) -> list[dict[str, nn.Parameter]]:
        return [layer.parameters_of(self._adapter_name) for layer in self._layers]

    def _rows(
        self, parameters: list[dict[str, nn.Parameter]], take: Callable[[nn.Parameter], Tensor]
    ) -> Tensor:
        by_symbol = (
            torch.stack([take(factors[symbol]) for factors in parameters]).flatten(1)
            for symbol in self._symbols
        )
        return torch.cat(list(by_symbol), -1)


def group_by_shape(
    layers: Iterable[Lora2Layer], symbols: Iterable[str], adapter_name: str
) -> list[list[int]]:
    """Return positions of layers whose factors of these symbols have one size, device and dtype."""
    symbols = list(symbols)
    groups: dict[tuple[object, ...], list[int]] = {}
    for position, layer in enumerate(layers):
        parameters = layer.parameters_of(adapter_name)
        alike = *(parameters[symbol].shape for symbol in symbols), parameters["u"].device
        groups.setdefault((*alike, parameters["u"].dtype), []).append(position)
    return list(groups.values())


def _data(parameter: nn.Parameter) -> Tensor:
    return parameter.data


def _gradient_or_zero(parameter: nn.Parameter) -> Tensor:
    # A matrix that a batch did not reach has no gradient: for this step it is not sensitive.
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
