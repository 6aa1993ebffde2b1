"""Sizes of single layers by patterns of their names, as PEFT's rank_pattern has them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import TypeVar

from lora2.tuners.base.layers.experts import parameter_of

Size = TypeVar("Size", int, float)

# A pruned model has an entry for each of its matrices, and those of experts are many: what is a
# name, and not an expression, is looked up and not matched.
_NAME = re.compile(r"\^?[\w.]+")


def looked_up(pattern: Mapping[str, Size], name: str, default: Size) -> Size:
    """Return what a pattern gives a layer of this name: the first that matches counts.

    What is given to a parameter holds for the matrices of all its experts, unless one of these has
    an entry of its own.
    """
    if not pattern:
        return default
    keys = tuple(pattern)
    key = _first_match(keys, name)
    parameter = None if key is not None else parameter_of(name)
    if parameter is not None:
        key = _first_match(keys, parameter)
    return default if key is None else pattern[key]


def pattern_for(
    sizes: Mapping[str, Size], pattern: Mapping[str, Size], default: Size
) -> dict[str, Size]:
    """Return `pattern` if it gives these sizes even once it is saved, else one entry a layer."""
    # PEFT sorts what it saves, and the first pattern that matches counts.
    reloaded = dict(sorted(pattern.items()))
    if all(looked_up(reloaded, name, default) == size for name, size in sizes.items()):
        return dict(pattern)
    # A name would match every longer one that ends in it, too.
    longer = {ending for name in sizes for ending in _endings(name) if ending != name}
    return {
        f"^{name}" if name in longer else name: size
        for name, size in sizes.items()
        if size != default
    }


def unmatched(pattern: Iterable[str], names: Iterable[str]) -> list[str]:
    """Return the keys of a pattern that give no layer of these names anything."""
    names = list(names)
    known = {ending for name in names for ending in _endings(name)} | {f"^{name}" for name in names}
    return sorted(
        key
        for key in pattern
        if key not in known and not any(_expression(key).match(name) for name in names)
    )


def _first_match(keys: tuple[str, ...], name: str) -> str | None:
    positions, expressions = _prepared(keys)
    named = (positions.get(candidate) for candidate in (*_endings(name), f"^{name}"))
    matching = (position for position, each in expressions if each.match(name))
    found = [position for position in (*named, next(matching, None)) if position is not None]
    return keys[min(found)] if found else None


@lru_cache(maxsize=16)
def _prepared(keys: tuple[str, ...]) -> tuple[dict[str, int], list[tuple[int, re.Pattern[str]]]]:
    """Return the positions of the keys that are names, and the others in their order."""
    positions = {key: position for position, key in enumerate(keys) if _NAME.fullmatch(key)}
    expressions = [
        (position, _expression(key)) for position, key in enumerate(keys) if key not in positions
    ]
    return positions, expressions


def _expression(key: str) -> re.Pattern[str]:
    return re.compile(rf"(.*\.)?({key})$")


def _endings(name: str) -> Iterator[str]:
    """Yield a name and what is left of it without its first parts."""
    while name:
        yield name
        _, _, name = name.partition(".")
