"""Batches of a trainer's data that are read before its training, which is left as it is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset
from transformers import TrainingArguments


def shuffled_batches(loader: Any, args: TrainingArguments) -> Iterable[Any]:
    """Return batches of a trainer's data loader, shuffled by the seed of its data.

    They come from a loader of their own: the trainer's keeps account of what was read, and draws
    its order from the global generator.
    """
    data = loader.dataset
    seed = args.seed if args.data_seed is None else args.data_seed
    is_stream = isinstance(data, IterableDataset)
    own: DataLoader[Any] = DataLoader(
        data,
        args.per_device_train_batch_size,
        shuffle=None if is_stream else True,
        collate_fn=loader.collate_fn,
        generator=torch.Generator().manual_seed(seed),
    )
    return own
