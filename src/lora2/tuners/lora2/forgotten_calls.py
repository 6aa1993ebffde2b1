"""Warns, once, of calls that a training loop has forgotten: of a start, and of pruning."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from lora2.tuners.base.distributed.gathering import local_part
from lora2.tuners.lora2.config import Lora2Config
from lora2.tuners.lora2.layer import Lora2Layer
from lora2.tuners.lora2.trained_adapters import trains_in_pass


class ForgottenCalls:
    """What one base model has seen of the calls that prune its adapters, and that start them."""

    def __init__(self) -> None:
        self._has_warned = False
        self._first_values: dict[str, Tensor] = {}

    def warn(self, layers: list[Lora2Layer], name: str, config: Lora2Config) -> None:
        """Warn where nobody has pruned or started an adapter that is trained in these layers."""
        self._warn_if_never_allocated(layers, name, config)
        self._warn_if_not_started(layers, name, config)

    def forget(self, adapter_name: str) -> None:
        """Know nothing of an adapter that has gone; another may get its name."""
        self._first_values.pop(adapter_name, None)

    def _warn_if_never_allocated(
        self, layers: list[Lora2Layer], name: str, config: Lora2Config
    ) -> None:
        first = next(layer for layer in layers if trains_in_pass(layer, name))
        if self._has_warned or first.lora2_states[name].is_allocated or not config.prunes:
            return
        adapted = [layer for layer in layers if layer.has_adapter(name)]
        matrices = [layer.matrix_size(name) for layer in adapted]
        if config.initial_budget(matrices) <= config.target_budget(matrices):
            return
        values = local_part(first.parameters_of(name)["lam"].detach())
        if not torch.equal(values, self._first_values.setdefault(name, values.clone())):
            self._has_warned = True
            warnings.warn(
                f"Adapter {name!r} has target_r={config.target_r}, but nothing prunes it: add "
                "Lora2Callback() to the trainer's callbacks, or call RankAllocator.step() "
                "after each optimizer step.",
                stacklevel=3,
            )

    def _warn_if_not_started(
        self, layers: list[Lora2Layer], name: str, config: Lora2Config
    ) -> None:
        """Once: an adapter that nobody has started from gradients learns from the default start."""
        if config.init_weights != "gradient":
            return
        first = next(layer for layer in layers if trains_in_pass(layer, name))
        state = first.lora2_states[name]
        if state.is_started:
            return
        # One that has been trained has been started, or is past it: it is not looked at again.
        state.is_started = True
        if not local_part(first.parameters_of(name)["V"].detach()).any():
            warnings.warn(
                f"Adapter {name!r} has init_weights='gradient', but nothing has started it: add "
                "Lora2Callback() to the trainer's callbacks, or call lora2.start_from_gradients "
                "before the first step.",
                stacklevel=3,
            )
