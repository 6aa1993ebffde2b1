"""Checks of the config field: its type, the rows that it names, and which of them can be merged."""

from __future__ import annotations

from typing import Any

from peft.tuners.trainable_tokens import TrainableTokensLayer
from peft.tuners.tuners_utils import BaseTunerLayer, check_target_module_exists
from peft.utils import TrainableTokensWrapper
from peft.utils.constants import INCLUDE_LINEAR_LAYERS_SHORTHAND as ALL_LINEAR
from torch import Tensor, nn

from lora2.errors import UserError
from lora2.support.field_types import shortened
from lora2.tuners.base.names.peft_names import ROWS, Indices
from lora2.tuners.base.token_rows.finding import by_module

_EXAMPLE = "write a list of token ids, such as [49152, 49153], or lists by name of an embedding"


def checked_indices(indices: Any) -> Indices | None:
    """Return the field of a config; an empty one is None.

    Raises:
        UserError: it is no list of different token ids, or lists of them by name.
    """
    if isinstance(indices, dict):
        return {name: _checked(ids, f"{ROWS}[{name!r}]") for name, ids in indices.items()} or None
    return _checked(indices, ROWS) if indices not in (None, []) else None


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
    for name, ids in by_module(model, getattr(config, ROWS, None)).items():
        base = _base_of(model.get_submodule(name))
        if isinstance(base, nn.Embedding):
            rows = base.num_embeddings
        elif isinstance(base, nn.Linear) and base.bias is None:
            rows = base.out_features
        else:
            bias = " with a bias" if isinstance(base, nn.Linear) else ""
            raise UserError(
                f"{ROWS}: {name} is a {type(base).__name__}{bias}, and PEFT trains rows of "
                "embeddings and of linear heads without a bias alone; name another module."
            )
        if max(ids) >= rows:
            raise UserError(
                f"{ROWS}: there is no token {max(ids)} among the {rows} of {name}; give a model "
                "with a row for each token, as model.resize_token_embeddings(len(tokenizer)) makes "
                "it once the tokens are added (of `lora2 train`, --new_tokens adds them)."
            )
        for each in (name, *_sharing(model, base.weight, name)):
            _check_is_free(model, each, config)


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
                        f"{token} ({ROWS}), of which only one can be merged; merge one of them."
                    )
                owners[token] = name


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
                f"{ROWS}: an embedding and its head have one weight and other rows each, so that "
                "they cannot be merged; train the same tokens of both, or load the adapter on its "
                "base model."
            )


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
        raise UserError(f"{ROWS}: modules_to_save trains all of {name}; leave one of the two out.")
    targets = config.target_modules
    is_named = targets not in (None, ALL_LINEAR) and check_target_module_exists(config, name)
    if is_named or isinstance(model.get_submodule(name), BaseTunerLayer):
        raise UserError(
            f"{ROWS}: {name} is adapted as well (target_modules), and PEFT trains rows of a plain "
            "embedding alone; leave one of the two out."
        )
