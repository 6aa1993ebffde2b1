"""Digits: 1,797 handwritten digits of 8 × 8 grey values, which come with scikit-learn.

A copy of the test set of Alpaydin and Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI
Machine Learning Repository.
"""

from __future__ import annotations

import io
import random
from typing import Any, NamedTuple

from lora2.data.tasks.image_task import EXTRA, StoredImage
from lora2.support.extras import require

KNOWN = ("0", "1", "2", "3", "4")
"""The digits on which the model for them is pretrained."""

NEW = ("5", "6", "7", "8", "9")
"""The digits of the task."""

_HELD_OUT = 0.3
_LARGEST = 16


class Digits(NamedTuple):
    """Some of the digits: grey values from 0 to 1, [rows, 8, 8], and the name of each."""

    values: Any
    names: list[str]


def digits_of(names: tuple[str, ...]) -> Digits:
    """Return all digits of these names, in the order of scikit-learn."""
    loaded = require("sklearn.datasets", extra="train").load_digits()
    chosen = [row for row, target in enumerate(loaded.target) if str(target) in names]
    values = loaded.images[chosen] / _LARGEST
    return Digits(values, [str(loaded.target[row]) for row in chosen])


def as_png(values: Any) -> StoredImage:
    """Return grey values from 0 to 1, [height, width], as an image that is stored."""
    image = require("PIL.Image", extra=EXTRA).fromarray((values * 255).round().astype("uint8"))
    content = io.BytesIO()
    image.save(content, format="PNG")
    return StoredImage(bytes=content.getvalue(), path=None)


def split_rows(rows: int, seed: int) -> tuple[list[int], list[int]]:
    """Return the rows for training and those for validation, three in ten; by the seed."""
    order = list(range(rows))
    random.Random(f"digits-{seed}").shuffle(order)
    held_out = round(_HELD_OUT * rows)
    return sorted(order[held_out:]), sorted(order[:held_out])
