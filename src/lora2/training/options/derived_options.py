"""Groups of options that are made from a dataclass of another owner."""

from __future__ import annotations

import copy
import dataclasses
import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

FILE = "file"
RULES = ("range", "needs", FILE)
"""In the metadata of a field, if it has them: its `Range`, its `Need`, whether a JSON file may be
named in place of its mapping."""


def derived(name: str, source: type, left_out: frozenset[str], doc: str) -> type:
    """Make a dataclass of the fields of `source`, with types HfArgumentParser can read."""
    hints = get_type_hints(source)
    return dataclasses.make_dataclass(
        name,
        [
            # A copy: the parser writes into the fields of the dataclass it is given.
            (f.name, _command_line_type(hints[f.name]), copy.copy(f))
            for f in dataclasses.fields(source)
            if f.init and f.name not in left_out
        ],
        namespace={"__doc__": doc},
    )


def all_but(source: type, *names: str) -> frozenset[str]:
    """Return the names of a dataclass's fields but these."""
    return frozenset(f.name for f in dataclasses.fields(source)) - set(names)


def _command_line_type(hint: Any) -> Any:
    if get_origin(hint) not in (Union, types.UnionType):
        return hint
    choices = [choice for choice in get_args(hint) if choice is not type(None)]
    lists = [choice for choice in choices if get_origin(choice) is list]
    if lists:
        # One name or several: an option that takes several values serves both.
        return lists[0] | None
    literals = [choice for choice in choices if get_origin(choice) is Literal]
    if literals and bool in choices:
        return Literal[(True, False, *get_args(literals[0]))]
    return hint
