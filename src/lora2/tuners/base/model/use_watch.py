"""Finds adapted layers that no loss reaches, so that their adapter does nothing."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from lora2.tuners.base.layers.adapted_layer import AdaptedLayer
from lora2.tuners.base.layers.experts import name_in_config

_STEPS = 10
"""Optimizer steps to wait: an expert that few batches choose is not unused."""
_NAMED = 5


class UseWatch:
    """Warns once of the layers whose adapter has had no gradient in the first steps of a training.

    Args:
        layers: the layers of one adapter, by name.
        adapter_name: the adapter.
        total_steps: optimizer steps of the training, which may be fewer than it waits for.
    """

    def __init__(
        self, layers: Mapping[str, AdaptedLayer], adapter_name: str, total_steps: int
    ) -> None:
        self._adapter_name = adapter_name
        self._steps_left = min(_STEPS, total_steps)
        self._steps = self._steps_left
        self._layers = layers
        self._unused: dict[str, AdaptedLayer] | None = None

    def end_step(self) -> None:
        """Look at the gradients of an optimizer step, before they are cleared."""
        if not self._steps_left:
            return
        if self._unused is None:
            # Only now are all parameters where they are trained.
            self._unused = {n: each for n, each in self._layers.items() if self._is_watched(each)}
        watched = len(self._unused)
        self._unused = {n: each for n, each in self._unused.items() if not self._is_reached(each)}
        is_first = self._steps_left == self._steps
        self._steps_left -= 1
        # Some engines keep all gradients elsewhere.
        if not self._unused or (is_first and len(self._unused) == watched):
            self._steps_left = 0
        elif not self._steps_left:
            self._warn(list(self._unused))

    def _warn(self, names: list[str]) -> None:
        named = ", ".join(names[:_NAMED])
        excluded = list(dict.fromkeys(map(name_in_config, names)))
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        warnings.warn(
            f"Adapter {self._adapter_name!r} does nothing in {len(names)} of its "
            f"{len(self._layers)} layers, {named}{more}: they had no gradient in the first "
            f"{self._steps} optimizer steps, because the model does not call them or its loss does "
            f"not depend on them. Name them in exclude_modules, as in {excluded[:_NAMED]}; of an "
            "nn.MultiheadAttention, name itself in target_modules, not its out_proj.",
            stacklevel=4,
        )

    def _is_watched(self, layer: AdaptedLayer) -> bool:
        parameters = layer.tensors_of(self._adapter_name)
        # FSDP1 leaves empty parts in the place of parameters.
        return layer.trains(self._adapter_name) and all(each.numel() for each in parameters)

    def _is_reached(self, layer: AdaptedLayer) -> bool:
        return any(parameter.grad is not None for parameter in layer.tensors_of(self._adapter_name))
