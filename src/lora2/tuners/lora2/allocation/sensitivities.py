"""Running sensitivities of the scored factors, batched over matrices that are scored alike."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lora2.mathematics.importance import ImportanceScore, sensitivity, update_averages
from lora2.tuners.base.distributed.gathering import GradientsOf, check_size, whole
from lora2.tuners.lora2.layer import Lora2Layer

_BELOW_ALL = -1.0
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
        self._shapes = [layers[0].factor_shape(adapter_name, symbol) for symbol in self._symbols]
        numbers = sum(map(math.prod, self._shapes))
        device = layers[0].parameters_of(adapter_name)["lam"].device
        rows = torch.zeros(len(layers), numbers, dtype=torch.float32, device=device)
        self.state: dict[str, Tensor] = {_AVERAGE: rows, _UNCERTAINTY: rows.clone()}

    def update(self, beta1: float, beta2: float, gradients_of: GradientsOf) -> None:
        """Take in the present weights and gradients, unless a gradient has overflowed."""
        factors = self.factors()
        weights = whole(factors)
        gradients = [
            # A matrix that a batch did not reach has no gradient: it is not sensitive in this step.
            torch.zeros_like(weight) if gradient is None else gradient
            for weight, gradient in zip(weights, gradients_of(factors), strict=True)
        ]
        self._update(self._rows(weights), self._rows(gradients), beta1, beta2)

    def _update(self, weights: Tensor, gradients: Tensor, beta1: float, beta2: float) -> None:
        # float16's loss scaler skips such a step, and an average would stay infinite ever after.
        # Decided on the device: nothing waits.
        finite = gradients.sum(dtype=torch.float32).isfinite()
        old = self.state[_AVERAGE], self.state[_UNCERTAINTY]
        new = update_averages(*old, weights, gradients, beta1=beta1, beta2=beta2)
        self.state[_AVERAGE], self.state[_UNCERTAINTY] = (
            torch.where(finite, each.to(before.dtype), before)
            for each, before in zip(new, old, strict=True)
        )

    def importance(self) -> Tensor:
        """Importance of every singular value, [layers, r]; -1 in a matrix never reached."""
        rows = sensitivity(self.state[_AVERAGE], self.state[_UNCERTAINTY])
        parts = rows.split([math.prod(shape) for shape in self._shapes], -1)
        scores = (
            part.unflatten(-1, shape) for shape, part in zip(self._shapes, parts, strict=True)
        )
        # A matrix that no loss has reached comes after all that one has, in ties at 0 too.
        is_unused = ~self.state[_AVERAGE].any(-1, keepdim=True)
        return self._formula(*scores).masked_fill(is_unused, _BELOW_ALL)

    def factors(self) -> list[nn.Parameter]:
        """Return the scored factors of all layers, one symbol after the other."""
        held = [layer.parameters_of(self._adapter_name) for layer in self._layers]
        return [factors[symbol] for symbol in self._symbols for factors in held]

    def _rows(self, tensors: list[Tensor]) -> Tensor:
        count = len(self._layers)
        by_symbol = [tensors[start : start + count] for start in range(0, len(tensors), count)]
        return torch.cat(
            [self._stacked(*pair) for pair in zip(by_symbol, self._shapes, strict=True)], -1
        )

    def _stacked(self, tensors: list[Tensor], shape: tuple[int, ...]) -> Tensor:
        try:
            stack = torch.stack(tensors)
        except RuntimeError:
            for tensor in tensors:
                check_size(tensor, shape, f"A factor of adapter {self._adapter_name!r}")
            raise
        check_size(stack[0], shape, f"A factor of adapter {self._adapter_name!r}")
        return stack.flatten(1)


def group_by_shape(
    layers: Iterable[Lora2Layer], symbols: Iterable[str], adapter_name: str
) -> list[list[int]]:
    """Return positions of layers whose factors of these symbols have one size, device and dtype."""
    symbols = list(symbols)
    groups: dict[tuple[object, ...], list[int]] = {}
    for position, layer in enumerate(layers):
        parameters = layer.parameters_of(adapter_name)
        u = parameters["u"]
        alike = *(layer.factor_shape(adapter_name, symbol) for symbol in symbols), u.device, u.dtype
        groups.setdefault(alike, []).append(position)
    return list(groups.values())
