"""Whether a model has an embedding for each token that its tokenizer makes of the data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel

from lora2.errors import UserError
from lora2.support.extras import require
from lora2.training.objectives.objective import Sets

if TYPE_CHECKING:
    from datasets import Dataset

# Columns of token ids, of rows of one text and of preferences.
_COLUMNS = ("input_ids", "prompt_ids", "chosen_ids", "rejected_ids")


def check_token_ids(sets: Sets, model: PreTrainedModel, model_name: str) -> None:
    """Check encoded rows before the model meets them, which would fail inside torch.

    Raises:
        UserError: a token of them has no row in the model's table of embeddings.
    """
    embeddings: Any = model.get_input_embeddings()
    known = getattr(embeddings, "num_embeddings", None)
    largest = max((_largest(rows) for rows in sets.values()), default=0)
    if known is not None and largest >= known:
        raise UserError(
            f"model: the tokenizer of {model_name} makes token {largest} of the data, and the "
            f"model has embeddings of {known} tokens, from 0 on; give a model with the tokenizer "
            "that it was trained with."
        )


def _largest(rows: Dataset) -> int:
    """Return the largest token id of a data set; 0 of one without token ids."""
    compute = require("pyarrow.compute", extra="train")
    found = [
        compute.max(compute.list_flatten(rows.data.column(name))).as_py()
        for name in _COLUMNS
        if name in rows.column_names
    ]
    # A column without any token has no largest one.
    return max((each for each in found if each is not None), default=0)
