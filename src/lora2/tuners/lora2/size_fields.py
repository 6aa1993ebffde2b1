"""The fields of a config that give each matrix a size of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lora2.tuners.base.config.patterns import pattern_for


def size_fields(sizes: Mapping[str, int]) -> dict[str, Any]:
    """Return k, init_r and their patterns for the ranks of matrices by name; 0 leaves nothing."""
    largest = max([1, *sizes.values()])
    # k says nothing where the rank is 0.
    widths = {name: size or largest for name, size in sizes.items()}
    return {
        "k": largest,
        "init_r": largest,
        "k_pattern": pattern_for(widths, {}, largest),
        "rank_pattern": pattern_for(sizes, {}, largest),
    }
