"""Parses YAML more strictly than PyYAML's SafeLoader, with numbers as JSON has them."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from functools import cache
from typing import Any

from lora2.support.error_text import one_line
from lora2.support.extras import require

# These are the names that YAML has for its types.
_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_TEXT, _NULL = "tag:yaml.org,2002:str", "tag:yaml.org,2002:null"
_WHOLE_NUMBER = re.compile(r"[-+]?(0|[1-9]\d*|0x[0-9a-fA-F]+)$")
_REAL_NUMBER = re.compile(
    r"[-+]?(\d+\.\d*|\.\d+)([eE][-+]\d+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"
)


class YamlError(ValueError):
    """What is wrong with a YAML text, as the predicate of a sentence."""


def parse_yaml(text: str, *, holds_text: Callable[[str], bool]) -> Any:
    """Return the value of a YAML text.

    holds_text: whether the value of a key is a text, or a list of texts. Such a value is read as it
        is written.

    Raises:
        YamlError: no YAML, a key twice in one mapping, or a value that cannot be read.
    """
    yaml = require("yaml", extra="train")
    try:
        loader = _plain_loader()(text)
        node = loader.get_single_node()
        _refuse_repeated_keys(node, set())
        if isinstance(node, yaml.MappingNode):
            node.value = [
                (key, _as_texts(each) if key.id == "scalar" and holds_text(key.value) else each)
                for key, each in node.value
            ]
        return None if node is None else loader.construct_document(node)
    except YamlError:
        raise
    except RecursionError as error:
        raise YamlError("is nested too deeply") from error
    except yaml.YAMLError as error:
        raise YamlError(f"is not valid YAML ({_with_place(error)})") from error
    # SafeLoader raises these for `!!int x`, a thirteenth month, or a number of too many digits.
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise YamlError(f"holds a value that YAML cannot read ({one_line(error)})") from error


def _with_place(error: Any) -> str:
    """Return what PyYAML found wrong, and in which lines; without the copies of these lines."""
    parts = [
        f"{what} in line {mark.line + 1}, column {mark.column + 1}"
        for what, mark in (
            (getattr(error, "context", None), getattr(error, "context_mark", None)),
            (getattr(error, "problem", None), getattr(error, "problem_mark", None)),
        )
        if what and mark
    ]
    return ": ".join(parts) or one_line(error)


def _as_texts(node: Any) -> Any:
    """Return a node whose value, or whose entries, are texts if YAML would read another type."""
    if node.id == "mapping":
        return node
    # A copy: an alias may name the same node where a number is wanted.
    node = copy.copy(node)
    if node.id == "sequence":
        node.value = [_as_texts(each) if each.id == "scalar" else each for each in node.value]
    elif node.tag in _implicit_tags():
        node.tag = _TEXT
    return node


@cache
def _implicit_tags() -> frozenset[str]:
    """Return the types that the loader reads from a value without a tag, except null."""
    known = _plain_loader().yaml_implicit_resolvers.values()
    return frozenset(tag for each in known for tag, _ in each) - {_NULL}


@cache
def _plain_loader() -> type[Any]:
    """Return a loader to which 010, 1:30 and 1_000 are texts, as to everything but YAML 1.1.

    That reads them as 8, 90 and 1000.
    """
    yaml = require("yaml", extra="train")

    class PlainLoader(yaml.SafeLoader):  # type: ignore[name-defined]
        """A SafeLoader whose numbers are JSON's, with .inf, .nan and 0x10."""

    PlainLoader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in known if tag not in (_INT, _FLOAT)]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    PlainLoader.add_implicit_resolver(_INT, _WHOLE_NUMBER, [*"-+0123456789"])
    PlainLoader.add_implicit_resolver(_FLOAT, _REAL_NUMBER, [*"-+.0123456789"])
    return PlainLoader


def _refuse_repeated_keys(node: Any, seen: set[int]) -> None:
    """Visit every node once: an alias may lead back to one that contains it."""
    if node is None or id(node) in seen or isinstance(node.value, str):
        return
    seen.add(id(node))
    names: set[str] = set()
    for part in node.value:
        key, value = part if isinstance(part, tuple) else (None, part)
        if key is not None and isinstance(key.value, str):
            if key.value in names:
                raise YamlError(f"has the key {key.value!r} twice (line {key.start_mark.line + 1})")
            names.add(key.value)
        _refuse_repeated_keys(value, seen)
