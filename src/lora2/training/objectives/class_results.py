"""What is found where each row has one class: its name, and the probabilities of all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor


def class_columns(names: Sequence[str], flat: bool) -> list[str]:
    """Return the names of the result's columns: in flat formats, each class has its own."""
    classes = [f"probabilities_{name}" for name in names] if flat else ["probabilities"]
    return ["label", *classes]


def class_cells(logits: Tensor, names: Sequence[str], flat: bool) -> list[list[Any]]:
    """Return label and probabilities of each row, of logits [rows, classes]."""
    cells = []
    for row in logits:
        shares = [round(value, 6) for value in row.softmax(0).tolist()]
        probabilities = shares if flat else [dict(zip(names, shares, strict=True))]
        cells.append([names[int(row.argmax())], *probabilities])
    return cells
