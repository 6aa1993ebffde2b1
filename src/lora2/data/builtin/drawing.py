"""The parts that generated tasks share: names of sets and months, and the random generator."""

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
    # A text seeds the same generator everywhere, which the hash() of a tuple does not.
    return random.Random(f"{task}-{split}-{seed}")
