"""Token ids of preferences: which rows have something to prefer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora2.errors import UserError
from lora2.support.shown_values import as_shown

if TYPE_CHECKING:
    from datasets import Dataset


def told_apart(rows: Dataset, max_length: int) -> Dataset:
    """Leave out the rows whose two answers are the same once they are cut off.

    rows: with `prompt_ids`, `chosen_ids` and `rejected_ids`, cut at `max_length` tokens together.

    Raises:
        UserError: a row has the same tokens in both answers, and not for being cut off.
    """
    kept = []
    for number, row in enumerate(rows):
        chosen, rejected = row["chosen_ids"], row["rejected_ids"]
        if chosen == rejected:
            raise UserError(
                "text_columns: the model's tokenizer makes the same tokens of the chosen answer "
                f"{as_shown(row['chosen'])} and the rejected one, so there is nothing to prefer; "
                "change or remove the row."
            )
        room = max(0, max_length - len(row["prompt_ids"]))
        if chosen[:room] != rejected[:room]:
            kept.append(number)
    # keep_in_memory: the list of rows would go to a cache file otherwise.
    return rows.select(kept, keep_in_memory=True) if len(kept) < len(rows) else rows
