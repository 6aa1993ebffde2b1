"""Checks that a model has an embedding for each token that its tokenizer makes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel

from lora2.errors import UserError
from lora2.support.extras import require
from lora2.training.objectives.objective import Sets

if TYPE_CHECKING:
    from datasets import Dataset

# Columns of token ids, of rows of one text and of preferences.
_COLUMNS = ("input_ids", "prompt_ids", "chosen_ids", "rejected_ids")
# Rows looked at together.
_BATCH = 1000


def check_token_ids(
    sets: Sets, padding: int | None, model: PreTrainedModel, model_name: str
) -> None:
    """Check encoded rows before the model meets them, which would fail inside torch.

    padding: the token that batches are padded with; None where they are not.

    Raises:
        UserError: a token has no row in the model's table of embeddings.
    """
    known = _known_tokens(model)
    if known is None:
        return
    largest = max((token for rows in sets.values() for token in _largest(rows)), default=0)
    for does, token in (("writes the data with", largest), ("pads with", padding)):
        if token is not None and token >= known:
            raise UserError(
                f"model: the tokenizer of {model_name} {does} token {token}, and the model has "
                f"embeddings of tokens 0 to {known - 1}; give a model with the tokenizer that it "
                "was trained with."
            )


def _known_tokens(model: PreTrainedModel) -> int | None:
    """Return how many tokens have an embedding; None of a model without such a table."""
    try:
        embeddings: Any = model.get_input_embeddings()
    except NotImplementedError:
        # CANINE makes its embeddings by hashing.
        return None
    known: int | None = getattr(embeddings, "num_embeddings", None)
    return known


def _largest(rows: Dataset) -> Iterator[int]:
    """Yield the largest token id of each part of a data set that has any."""
    arrow = require("pyarrow", extra="train")
    compute = require("pyarrow.compute", extra="train")
    columns = [name for name in _COLUMNS if name in rows.column_names]
    for part in rows.select_columns(columns).with_format("arrow").iter(_BATCH) if columns else ():
        for column in part.columns:
            # A column without any token has no type of its own.
            tokens = compute.list_flatten(column.cast(arrow.list_(arrow.int64())))
            largest = compute.max(tokens).as_py()
            if largest is not None:
                yield largest
