"""What the generated tasks have in common: their sets, their months, and how they are drawn."""

from __future__ import annotations

import random
from typing import Literal

Split = Literal["train", "validation"]

MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip


def generator_of(task: str, split: Split, seed: int) -> random.Random:
    """Return the generator of one set of a task, the same for every Python version."""
    # A text is hashed the same way everywhere; hash() of a tuple is not.
    return random.Random(f"{task}-{split}-{seed}")
