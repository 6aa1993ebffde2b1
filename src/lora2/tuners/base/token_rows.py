"""Rows of an embedding that are trained as they are, by PEFT's `trainable_token_indices`.

PEFT puts a wrapper around the embedding, and around a head that shares its weight; the wrapper has
a copy of the rows for each adapter.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from peft.tuners.trainable_tokens import TrainableTokensLayer
from peft.tuners.tuners_utils import BaseTunerLayer, check_target_module_exists
from peft.utils import TrainableTokensWrapper
from peft.utils.constants import INCLUDE_LINEAR_LAYERS_SHORTHAND as ALL_LINEAR
from torch import Tensor, nn

from lora2.errors import UserError
from lora2.support.field_types import shortened
from lora2.tuners.base.distributed.whole import is_sharded, whole, whole_in_graph
from lora2.tuners.base.layers.changed_weights import ChangedWeight, call_with
from lora2.tuners.base.layers.embedding import looks_up_more_than_rows

FIELD = "trainable_token_indices"
SAVED_NAME = "token_adapter.trainable_tokens_delta"
"""The name of the rows in a file of PEFT's, after that of the embedding."""
Indices = list[int] | dict[str, list[int]]

_SHARED_WITH_EMBEDDING = "trainable_tokens_delta", "trainable_tokens_original"
_USUAL_NAME = "embed_tokens"
_EXAMPLE = "write a list of token ids, such as [49152, 49153], or lists by name of an embedding"


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
                f"({FIELD}), and one adapter with rows can be active at a time; name one of them."
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


def check_rows_apart(model: nn.Module, adapter_names: list[str]) -> None:
    """Check that no two adapters that are merged together have a row of the same token.

    Raises:
        UserError: two have.
    """
    for layer in (each for each in model.modules() if isinstance(each, TrainableTokensLayer)):
        owners: dict[int, str] = {}
        for name in dict.fromkeys([*layer.merged_adapters, *adapter_names]):
            for token in layer.token_indices.get(name, ()):
                if token in owners:
                    raise UserError(
                        f"adapter_names: {owners[token]} and {name} each have a row for token "
                        f"{token} ({FIELD}), of which only one can be merged; merge one of them."
                    )
                owners[token] = name


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


def checked_indices(indices: Any) -> Indices | None:
    """Return the field of a config; an empty one is None.

    Raises:
        UserError: it is no list of different token ids, or lists of them by name.
    """
    if isinstance(indices, dict):
        return {name: _checked(ids, f"{FIELD}[{name!r}]") for name, ids in indices.items()} or None
    return _checked(indices, FIELD) if indices not in (None, []) else None


def _checked(ids: Any, place: str) -> list[int]:
    if not isinstance(ids, list) or not ids or not all(type(i) is int and i >= 0 for i in ids):
        raise UserError(f"{place}={ids if isinstance(ids, list) else shortened(ids)}: {_EXAMPLE}.")
    if len(set(ids)) < len(ids):
        twice = next(each for each in ids if ids.count(each) > 1)
        raise UserError(f"{place}: {twice} is there twice; write each token id once.")
    return ids


def check_rows(model: nn.Module, config: Any) -> None:
    """Check that a model has the rows of a config, in weights that nothing else of it changes.

    Raises:
        UserError: an embedding or a row that is not there, or one that is adapted or trained whole.
    """
    for name, ids in by_module(model, getattr(config, FIELD, None)).items():
        base = _base_of(model.get_submodule(name))
        if isinstance(base, nn.Embedding):
            rows = base.num_embeddings
        elif isinstance(base, nn.Linear) and base.bias is None:
            rows = base.out_features
        else:
            bias = " with a bias" if isinstance(base, nn.Linear) else ""
            raise UserError(
                f"{FIELD}: {name} is a {type(base).__name__}{bias}, and PEFT trains rows of "
                "embeddings and of linear heads without a bias alone; name another module."
            )
        if max(ids) >= rows:
            raise UserError(
                f"{FIELD}: there is no token {max(ids)} among the {rows} of {name}; give a model "
                "with a row for each token, as model.resize_token_embeddings(len(tokenizer)) makes "
                "it once the tokens are added (of `lora2 train`, --new_tokens adds them)."
            )
        for each in (name, *_sharing(model, base.weight, name)):
            _check_is_free(model, each, config)


def by_module(model: nn.Module, indices: Indices | None) -> dict[str, list[int]]:
    """Return the trained token ids by full name of the embedding, or head, that has the rows.

    Raises:
        UserError: the model has no module of a name.
    """
    if not indices:
        return {}
    names = [name for name, _ in model.named_modules()]
    if not isinstance(indices, dict):
        return {_embedding_name(model, names): indices}
    found: dict[str, list[int]] = {}
    for end, ids in indices.items():
        # PEFT finds them so, too.
        chosen = [name for name in names if name.endswith(end)]
        if not chosen:
            raise UserError(
                f"{FIELD}: no module of this model has the name {end!r}; write the name of its "
                "embedding."
            )
        found |= dict.fromkeys(chosen, ids)
    return found


def count_numbers(model: nn.Module, indices: Indices | None) -> int:
    """Return how many numbers the rows have, on a model without adapters."""
    modules: dict[str, Any] = dict(model.named_modules())
    rows = by_module(model, indices).items()
    return sum(len(ids) * int(modules[name].weight.shape[1]) for name, ids in rows)


def trained_rows(model: nn.Module, adapter_name: str) -> Iterator[tuple[str, Any]]:
    """Yield the wrappers that have rows of an adapter, and their names; tied ones share them."""
    for name, module in model.named_modules():
        if isinstance(module, TrainableTokensWrapper):
            layer = module.token_adapter
            if layer.tied_adapter is None and adapter_name in layer.trainable_tokens_delta:
                yield name, module


def has_tied_rows(model: nn.Module) -> bool:
    """Whether rows are trained of an embedding whose weight a head has, too."""
    return any(
        isinstance(module, TrainableTokensLayer) and module.tied_adapter is not None
        for module in model.modules()
    )


def rows_of(wrapper: Any, adapter_name: str) -> Tensor:
    """Return the trained rows [tokens, width] of an adapter."""
    rows: Tensor = wrapper.token_adapter.trainable_tokens_delta[adapter_name]
    return rows


def check_rows_merge(model: nn.Module) -> None:
    """Check that no module would get rows of another one that has the same weight.

    Raises:
        UserError: one would.
    """
    layers = [m for m in model.modules() if isinstance(m, TrainableTokensLayer)]
    for layer in layers:
        if layer.tied_adapter is not None:
            continue
        followers = [each for each in layers if each.tied_adapter is layer]
        own = {id(each.get_base_layer()) for each in (layer, *followers)}
        others = [
            name
            for name, module in model.named_modules()
            if module._parameters.get("weight") is layer.get_base_layer().weight
            and id(module) not in own
        ]
        if others:
            raise UserError(
                f"{FIELD}: an embedding and its head have one weight and other rows each, so that "
                "they cannot be merged; train the same tokens of both, or load the adapter on its "
                "base model."
            )


def _embedding_name(model: nn.Module, names: list[str]) -> str:
    if hasattr(model, "get_input_embeddings"):
        embedding: Any = model.get_input_embeddings()  # type: ignore[operator]
        found = next((name for name, module in model.named_modules() if module is embedding), None)
        if found is not None:
            return found
    found = next((name for name in names if name.endswith(_USUAL_NAME)), None)
    if found is None:
        raise UserError(
            f"{FIELD}: which module of a {type(model).__name__} is the embedding is not known; "
            'write {"its name": [token ids]}.'
        )
    return found


def _base_of(module: nn.Module) -> nn.Module:
    while isinstance(module, TrainableTokensWrapper | BaseTunerLayer):
        inside = isinstance(module, TrainableTokensWrapper)
        module = module.original_module if inside else module.get_base_layer()
    return module


def _sharing(model: nn.Module, weight: Tensor, name: str) -> list[str]:
    """Return the names of other modules that have a weight."""
    return [
        each
        for each, module in model.named_modules()
        if module._parameters.get("weight") is weight and not each.startswith(name)
    ]


def _check_is_free(model: nn.Module, name: str, config: Any) -> None:
    whole = getattr(config, "modules_to_save", None) or ()
    if any(name.endswith(each) for each in whole):
        raise UserError(f"{FIELD}: modules_to_save trains all of {name}; leave one of the two out.")
    targets = config.target_modules
    is_named = targets not in (None, ALL_LINEAR) and check_target_module_exists(config, name)
    if is_named or isinstance(model.get_submodule(name), BaseTunerLayer):
        raise UserError(
            f"{FIELD}: {name} is adapted as well (target_modules), and PEFT trains rows of a plain "
            "embedding alone; leave one of the two out."
        )
