"""The wrappers that take the place of PEFT's around an embedding with trained rows.

PEFT puts a wrapper around the embedding, and around a head that shares its weight; the wrapper has
a copy of the rows for each adapter.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.trainable_tokens import TrainableTokensLayer
from peft.utils import TrainableTokensWrapper
from torch import Tensor, nn

from lora2.errors import UserError
from lora2.tuners.base.distributed.gathering import is_sharded, whole, whole_in_graph
from lora2.tuners.base.layers.changed_weights import ChangedWeight, call_with
from lora2.tuners.base.layers.embedding import looks_up_more_than_rows
from lora2.tuners.base.names.peft_names import ROWS

_SHARED_WITH_EMBEDDING = "trainable_tokens_delta", "trainable_tokens_original"


class TokenRows(TrainableTokensWrapper):
    """PEFT's wrapper, of which one adapter may have rows and another none.

    It passes on the attributes of its embedding or head, such as the bias that TRL reads.
    """

    def adapter_state_dict(self, adapter_name: str, state_dict: Any = None) -> Any:
        """Return what is saved of an adapter."""
        return (
            super().adapter_state_dict(adapter_name, state_dict) if self._has(adapter_name) else {}
        )

    def adapter_state_dict_load_map(self, adapter_name: str) -> Any:
        """Return the names in the model of what is saved of an adapter."""
        return super().adapter_state_dict_load_map(adapter_name) if self._has(adapter_name) else {}

    def check_set_adapter(self, adapter_name: str | list[str]) -> str | None:
        """Return which of these adapters has rows; None if none has."""
        names = [adapter_name] if isinstance(adapter_name, str) else adapter_name
        if sum(map(self._has, names)) > 1:
            raise UserError(
                f"adapters: {', '.join(filter(self._has, names))} each have rows of tokens "
                f"({ROWS}), and one adapter with rows can be active at a time; name one of them."
            )
        found: str | None = super().check_set_adapter(adapter_name)
        return found

    def _has(self, adapter_name: str) -> bool:
        return adapter_name in self.token_adapter.trainable_tokens_delta

    def _forward_wrapped_mixed_batch(
        self, x: Tensor, active_adapter: str, *args: Any, **kwargs: Any
    ) -> Any:
        if not self._has(active_adapter):
            return self.original_module(x, *args, **kwargs)
        return super()._forward_wrapped_mixed_batch(x, active_adapter, *args, **kwargs)

    def _hasattr_wrapped(self, name: str, modules: Any) -> bool:
        return super()._hasattr_wrapped(name, modules) or hasattr(self.original_module, name)

    def _getattr_wrapped(self, name: str, modules: Any) -> Any:
        if name == "weight" and is_sharded(self.original_module.weight):
            return self._gathered_weight()
        if super()._hasattr_wrapped(name, modules):
            return super()._getattr_wrapped(name, modules)
        return getattr(self.original_module, name)

    def _gathered_weight(self) -> Tensor:
        """The weight with the rows as a whole, as TRL reads it from a head that is not called."""
        layer, (weight,) = self.token_adapter, whole([self.original_module.weight])
        for name in layer.active_adapters:
            if self._has(name):
                (rows,) = whole_in_graph([layer.trainable_tokens_delta[name]])
                index = torch.tensor(layer.token_indices[name], device=weight.device)
                weight = weight.index_copy(0, index, rows.to(weight))
        return weight


class RowsLayer(TrainableTokensLayer):
    """PEFT's layer with the rows, on embeddings and heads with a forward of their own, too."""

    def forward_adapters(self, x: Tensor, active_adapters: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the output with the rows of the active adapters."""
        base: Any = self.get_base_layer()
        is_plain = self.disable_adapters or not active_adapters or self.merged
        if is_plain or not _has_own_forward(base):
            return super().forward_adapters(x, active_adapters, *args, **kwargs)
        self._check_overlapping_tokens(active_adapters)
        weight = ChangedWeight(base, "weight", self.get_merged_weights(active_adapters))
        return call_with(self.base_layer, [weight], x, *args, **kwargs)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Write the rows of the named (or active) adapters that have some into the weight."""
        names = self.active_adapters if adapter_names is None else adapter_names
        mine = [name for name in names if name in self.trainable_tokens_delta]
        if mine:
            super().merge(safe_merge, mine)

    def unmerge(self) -> None:
        """Write back the rows that a merge has replaced; without one there is nothing to say."""
        if self.merged:
            super().unmerge()


def _has_own_forward(base: Any) -> bool:
    if isinstance(base, nn.Embedding):
        return looks_up_more_than_rows(base)
    return type(base).forward is not nn.Linear.forward


def complete_wrappers(model: nn.Module) -> None:
    """Make every wrapper of PEFT's in the model one of ours, and register tied rows once."""
    for module in list(model.modules()):
        # PEFT makes them of its own class, and has no place to name another.
        if type(module) is TrainableTokensWrapper:
            module.__class__ = TokenRows
        if type(module) is TrainableTokensLayer:
            module.__class__ = RowsLayer
        if isinstance(module, TrainableTokensLayer) and module.tied_adapter is not None:
            _register_elsewhere(module)


def _register_elsewhere(layer: nn.Module) -> None:
    """Leave the rows that a head shares with its embedding to the embedding alone.

    PEFT registers them in both. torch.distributed.checkpoint loads a module that has two names
    by one of them, and fails at the other.
    """
    for name in _SHARED_WITH_EMBEDDING:
        shared = layer._modules.pop(name, None)
        if shared is not None:
            vars(layer)[name] = shared
