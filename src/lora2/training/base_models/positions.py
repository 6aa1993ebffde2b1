"""The number of tokens that a model has positions for."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

# transformers' models give these names to tables with one row for each position.
_TABLES = ("position_embeddings", "position_embedding", "embed_positions", "wpe")
_WRAPPED = ".base_layer"
# Parts of a model that read images have these in their names; their positions are of patches.
_OF_IMAGES = ("vision", "visual", "image")


def positions_of(model: nn.Module) -> int | None:
    """Return the number of tokens of a text that a model's table of positions has rows for.

    None if it has no table: positions that are rotated, or relative, have no end. Vectors that
    prompt tuning puts in front of a text take theirs.
    """
    found = [
        module.num_embeddings - _unused_rows(module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding)
        and name.removesuffix(_WRAPPED).rpartition(".")[2] in _TABLES
        and not any(of_images in name for of_images in _OF_IMAGES)
    ]
    in_front = getattr(getattr(model, "active_peft_config", None), "num_virtual_tokens", None) or 0
    return min(found) - in_front if found else None


def longest_text(model: PreTrainedModel) -> int | None:
    """Return the number of tokens of a text that a model was made for; None if nothing says it.

    It is the size of its table of positions, or `max_position_embeddings` of its configuration if
    that is smaller; models with rotary positions have no table, and state it there.
    """
    stated = getattr(model.config, "max_position_embeddings", None)
    known = [each for each in (stated, positions_of(model)) if each is not None]
    return min(known, default=None)


def _unused_rows(table: nn.Embedding) -> int:
    """Return the rows before that of the first token: RoBERTa's and OPT's, for example, have 2."""
    offset = getattr(table, "offset", None)
    if isinstance(offset, int):
        return offset
    return 0 if table.padding_idx is None else table.padding_idx + 1
