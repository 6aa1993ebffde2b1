"""Closes gates during training, and drops the closed ones at its end."""

from __future__ import annotations

from copy import copy

import torch
from torch import nn

from lora2.errors import UserError
from lora2.mathematics.soft_threshold import soft_threshold, threshold_at
from lora2.tuners.base.config.patterns import pattern_for
from lora2.tuners.base.layers.finding import layers_of_type
from lora2.tuners.base.model.placement import adapters_named
from lora2.tuners.base.model.same_adapter import SameAdapter
from lora2.tuners.base.model.use_watch import UseWatch
from lora2.tuners.base.names.peft_names import prefix_of
from lora2.tuners.sora.config import SoraConfig
from lora2.tuners.sora.layer import SoraLayer


class GateThreshold:
    """The proximal step on all gates of one adapter: call `step()` after each `optimizer.step()`.

    Args:
        model: a model with SoRA layers.
        total_steps: optimizer steps of the whole training.
        adapter_name: the adapter whose gates are meant.
        completed_steps: steps done before, of a training that is resumed.

    Raises:
        UserError: the model has no such adapter, or several PEFT models in it have one.
    """

    def __init__(
        self,
        model: nn.Module,
        total_steps: int,
        adapter_name: str = "default",
        completed_steps: int = 0,
    ) -> None:
        self.adapter_name = adapter_name
        self.total_steps = total_steps
        self.completed_steps = completed_steps
        found = adapters_named(model, adapter_name, SoraConfig, "SoRA")
        if len(found) > 1:
            raise UserError(
                f"adapter_name={adapter_name!r}: the PEFT models "
                f"{', '.join(repr(adapter.outer) for adapter in found)} all have it: make one "
                "GateThreshold for each PEFT model."
            )
        self._layers = layers_of_type(model, adapter_name, SoraLayer)
        self.config: SoraConfig = found[0].config
        self._adapter = SameAdapter(self._layers, adapter_name, "GateThreshold")
        self._use = UseWatch(self._layers, adapter_name, total_steps)

    @property
    def threshold(self) -> float:
        """ξ of the next step."""
        config = self.config
        return threshold_at(
            min(self.completed_steps + 1, self.total_steps),
            total_steps=self.total_steps,
            first=config.threshold,
            last=config.threshold if config.max_threshold is None else config.max_threshold,
            stages=config.threshold_stages,
            shape=config.threshold_schedule,
        )

    @property
    def open_gates(self) -> int:
        """Gates that are not zero, over all matrices."""
        return sum(int(layer.sora_gate[self.adapter_name].count_nonzero()) for layer in self._all())

    @torch.no_grad()
    def step(self) -> None:
        """Soft-threshold every gate by ξ.

        Raises:
            UserError: the adapter was deleted.
        """
        self._adapter.check()
        threshold = self.threshold
        for layer in self._all():
            gate = layer.sora_gate[self.adapter_name]
            gate.copy_(soft_threshold(gate, threshold))
        self._use.end_step()
        self.completed_steps += 1

    def _all(self) -> list[SoraLayer]:
        return list(self._layers.values())


def prune_gates(model: nn.Module, adapter_name: str = "default") -> dict[str, int]:
    """Drop ranks whose gate is zero and return the ranks left, by module; Δ stays the same.

    The config's `rank_pattern` then has them, so that a saved adapter is loaded with these sizes.
    For the end of a training: the optimizer's state no longer fits.
    """
    ranks: dict[str, int] = {}
    for adapter in adapters_named(model, adapter_name, SoraConfig, "SoRA"):
        sizes: dict[str, int] = {}
        for name, layer in adapter.layers.items():
            assert isinstance(layer, SoraLayer)
            kept = layer.sora_gate[adapter_name] != 0
            layer.keep_ranks(adapter_name, kept)
            sizes[name.removeprefix(prefix_of(adapter.base))] = int(kept.sum())
        ranks |= {prefix_of(adapter.outer) + name: size for name, size in sizes.items()}
        # A copy: the user may use the config once more.
        pruned = copy(adapter.config)
        pruned.rank_pattern = pattern_for(sizes, {}, pruned.r)
        adapter.configs[adapter_name] = pruned
    return ranks
