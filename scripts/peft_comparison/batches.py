"""Batches of training texts that are about equally long, in the order of PEFT's comparison."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from peft_comparison.task_data import Row
from peft_comparison.train_config import TrainConfig

# Batches that are sorted together.
_BUCKET = 20
_NO_LABEL = -100


class Batch(NamedTuple):
    """What a step learns from.

    Attributes:
        inputs: what the model is given.
        rows: texts.
        tokens: those of the texts, each with its end token.
    """

    inputs: dict[str, Any]
    rows: int
    tokens: int


def training_batches(
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, config: TrainConfig
) -> Iterator[Batch]:
    """Yield batches without end, from long to short within 20 of them; the rows come again."""
    size = config.batch_size * _BUCKET
    while True:
        for start in range(0, len(rows), size):
            texts = [
                config.query_template.format(query=query) + answer
                for query, answer in rows[start : start + size]
            ]
            tokens = tokenizer(texts, truncation=True, max_length=config.max_seq_length)
            bucket = sorted(tokens["input_ids"], key=len, reverse=True)
            for first in range(0, len(bucket), config.batch_size):
                yield _batch(bucket[first : first + config.batch_size], tokenizer.eos_token_id)


def _batch(texts: Sequence[list[int]], end: int) -> Batch:
    """Return texts padded on the right with end tokens, of which each text learns the first.

    The end tokens are not attended to and do not count in the mean of the loss, as in PEFT's
    comparison.
    """
    lengths = torch.tensor([len(text) for text in texts])
    # There is one token more than the longest text has, since it learns to end, too.
    place = torch.arange(int(lengths.max()) + 1)
    padded = [torch.tensor(text + [end] * (len(place) - len(text))) for text in texts]
    tokens: Tensor = torch.stack(padded)
    labels = tokens.masked_fill(place > lengths[:, None], _NO_LABEL)
    inputs = {
        "input_ids": tokens,
        "attention_mask": (place < lengths[:, None]).long(),
        "labels": labels,
        "num_items_in_batch": int(lengths.sum()),
    }
    return Batch(inputs, len(texts), int(lengths.sum()) + len(texts))
