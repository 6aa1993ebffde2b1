"""Splits a user's rows into those for training and those for validation."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Hashable, Sequence
from typing import TYPE_CHECKING

from lora2.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

_FRACTION = 0.1


def split_off_validation(
    dataset: Dataset,
    source: str,
    data_seed: int,
    classes: Sequence[Collection[Hashable]] | None = None,
) -> tuple[Dataset, Dataset]:
    """Split a tenth, at least one row, off for validation; both keep the order of the file.

    Args:
        dataset: the rows.
        source: what messages call them.
        data_seed: draws them.
        classes: those of each row. The last row of a class is not split off, because training would
            never see the class.

    Raises:
        UserError: no row can be split off.
    """
    rows = len(dataset)
    if rows < 2:
        raise UserError(
            f"validation_file: {source} has a single row, too few to split off validation data; "
            f"add rows or name a validation file."
        )
    order = list(range(rows))
    random.Random(f"validation-{data_seed}").shuffle(order)
    held_out = _first_of(order, max(1, round(_FRACTION * rows)), classes or [()] * rows)
    if not held_out:
        raise UserError(
            f"validation_file: each row of {source} is the only one of a class, so none can be "
            "split off for validation; add rows or name a validation file."
        )
    # keep_in_memory: the list of rows would go to a cache file otherwise.
    validation = dataset.select(sorted(held_out), keep_in_memory=True)
    train = dataset.select(sorted({*order} - {*held_out}), keep_in_memory=True)
    return train, validation


def _first_of(
    order: Sequence[int], most: int, classes: Sequence[Collection[Hashable]]
) -> list[int]:
    """Return the first rows that leave each class another row, so many at most."""
    left = Counter(each for of_row in classes for each in of_row)
    held_out: list[int] = []
    for row in order:
        if len(held_out) == most:
            break
        if all(left[each] > 1 for each in classes[row]):
            held_out.append(row)
            left.subtract(classes[row])
    return held_out
