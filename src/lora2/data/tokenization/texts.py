"""From texts to token ids, ready for `transformers.Trainer`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lora2.data.tasks.labelled_task import TEXT_COLUMNS, LabelledTextTask
from lora2.data.tasks.task import LABEL_COLUMN
from lora2.errors import UserError
from lora2.support.extras import require

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

# So few rows are encoded at once that their Python lists stay small next to the Arrow table.
_BATCH = 1000


def tokenize(
    task_data: LabelledTextTask, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> dict[str, Dataset]:
    """Tokenize the training set and every validation set.

    Returns:
        The names of `task_data.sets`, each with columns `input_ids`, `attention_mask`,
        `token_type_ids` (if the tokenizer makes them) and `labels`.

    Raises:
        UserError: `max_length` is more than the model reads, or leaves no room for a word.
    """
    return {
        name: tokenize_dataset(rows, tokenizer, max_length) for name, rows in task_data.sets.items()
    }


def tokenize_dataset(
    dataset: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> Dataset:
    """Tokenize one set, with or without labels; rows are truncated to `max_length` tokens.

    Rows are not padded: `DataCollatorWithPadding` pads each batch to its own longest row.

    Raises:
        UserError: as `tokenize`, or texts of no token.
    """
    columns = [name for name in TEXT_COLUMNS if name in dataset.column_names]
    check_max_length(tokenizer, max_length, pairs=len(columns) == 2)

    def encode(rows: dict[str, list[Any]]) -> dict[str, Any]:
        encoded: dict[str, Any] = dict(
            tokenizer(*(rows[name] for name in columns), truncation=True, max_length=max_length)
        )
        empty = sum(not ids for ids in encoded["input_ids"])
        if empty:
            raise UserError(
                f"text_columns: {empty} of {len(encoded['input_ids'])} texts are empty, and the "
                "model's tokenizer adds no token of its own; fill or remove these rows."
            )
        if LABEL_COLUMN in rows:
            encoded["labels"] = rows[LABEL_COLUMN]
        return encoded

    return in_parts(dataset, encode)


def in_parts(dataset: Dataset, encode: Callable[[dict[str, list[Any]]], dict[str, Any]]) -> Dataset:
    """Return a data set of what `encode` returns for the rows, a part of them at a time.

    encode: takes and returns lists by column name.

    `Dataset.map` is not used: it hashes the tokenizer and keeps cache files, neither of use here.
    """
    datasets = require("datasets", extra="train")
    starts = range(0, len(dataset), _BATCH)
    encoded: Dataset = datasets.concatenate_datasets(
        [datasets.Dataset.from_dict(encode(dataset[start : start + _BATCH])) for start in starts]
    )
    return encoded


def by_length(dataset: Dataset) -> Dataset:
    """Return a tokenized set with its longest rows first; equal ones stay in their order.

    The longest first, so that a batch that does not fit into memory is met at once.
    """
    lengths = [len(ids) for ids in dataset["input_ids"]]
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    return dataset.select(order)


def check_max_length(tokenizer: PreTrainedTokenizerBase, max_length: int, pairs: bool) -> None:
    """Check that rows can be cut off at `max_length` tokens; pairs: whether rows have two texts.

    Raises:
        UserError: it is more than the model reads, or leaves no room for a word.
    """
    # Tokenizers without a limit state an astronomically large one, which passes here.
    check_reads(max_length, tokenizer.model_max_length)
    least = tokenizer.num_special_tokens_to_add(pair=pairs) + (2 if pairs else 1)
    if max_length < least:
        raise UserError(
            f"max_length: got {max_length}, which leaves no room for a word next to the special "
            f"tokens; write at least {least}."
        )


def check_reads(max_length: int, longest: int | None) -> None:
    """Check that a model reads texts of `max_length` tokens.

    longest: the most that it reads; None where it has no limit.

    Raises:
        UserError: it does not.
    """
    if longest is not None and max_length > longest:
        raise UserError(
            f"max_length: got {max_length}, but the model reads {longest} tokens; write at most "
            f"{longest}."
        )
