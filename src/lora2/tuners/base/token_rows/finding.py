"""Finds trained rows: by the config field, or by the wrappers once PEFT has put them in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from peft.tuners.trainable_tokens import TrainableTokensLayer
from peft.utils import TrainableTokensWrapper
from torch import Tensor, nn

from lora2.errors import UserError
from lora2.tuners.base.names.peft_names import ROWS, Indices

_USUAL_NAME = "embed_tokens"


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
                f"{ROWS}: no module of this model has the name {end!r}; write the name of its "
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


@torch.no_grad()
def copy_rows(
    source: nn.Module, source_adapter: str, target: nn.Module, target_adapter: str
) -> None:
    """Give the trained rows of one adapter to another, of this model or of one of its kind."""
    for name, wrapper in trained_rows(target, target_adapter):
        rows = rows_of(source.get_submodule(name), source_adapter)
        rows_of(wrapper, target_adapter).copy_(rows)


def _embedding_name(model: nn.Module, names: list[str]) -> str:
    if hasattr(model, "get_input_embeddings"):
        embedding: Any = model.get_input_embeddings()  # type: ignore[operator]
        found = next((name for name, module in model.named_modules() if module is embedding), None)
        if found is not None:
            return found
    found = next((name for name in names if name.endswith(_USUAL_NAME)), None)
    if found is None:
        raise UserError(
            f"{ROWS}: which module of a {type(model).__name__} is the embedding is not known; "
            'write {"its name": [token ids]}.'
        )
    return found
