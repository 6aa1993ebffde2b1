"""Whether the fields of a config have the types that they declare."""

from __future__ import annotations

import dataclasses
import types
from functools import lru_cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from peft import TaskType

from lora2.errors import UserError
from lora2.support.field_types import fits, in_words, is_finite, shortened

_TASKS = ", ".join(task.value for task in TaskType)


def check_types(config: Any) -> None:
    """Check the type of every field of a config, before values are compared.

    What has a check of its own that says more is left to it: whole numbers, fixed words, and what
    is in a mapping.

    Raises:
        UserError: the sentence names field and value.
    """
    for name, hint, default in _declared(config.__class__):
        value = getattr(config, name)
        if value is None and default is None:
            continue
        if name == "task_type" and not fits(value, TaskType):
            raise UserError(f"task_type={shortened(value)} must be one of {_TASKS}, or None.")
        plain = sorted(value, key=str) if isinstance(value, set | frozenset) else value
        if not fits(list(plain) if isinstance(plain, tuple) else plain, hint):
            raise UserError(f"{name}={shortened(value)} must be {in_words(hint)}.")
        if isinstance(value, int | float) and not is_finite(value):
            raise UserError(f"{name}={shortened(value)} must be a finite number.")


@lru_cache
def _declared(kind: type) -> list[tuple[str, Any, Any]]:
    """Return name, type and default of the fields of a config that are checked here.

    The default of a mapping is given as None, which stands for an empty one.
    """
    hints = get_type_hints(kind)
    return [
        (
            each.name,
            _outer(hints[each.name]),
            each.default if each.default_factory is dataclasses.MISSING else None,
        )
        for each in dataclasses.fields(kind)
        if each.init and hints[each.name] is not int and not _has_words(hints[each.name])
    ]


def _has_words(hint: Any) -> bool:
    return get_origin(hint) is Literal or any(map(_has_words, get_args(hint)))


def _outer(hint: Any) -> Any:
    """Return a type whose mappings may have values of any kind."""
    if get_origin(hint) in (Union, types.UnionType):
        return Union[tuple(_outer(part) for part in get_args(hint))]  # noqa: UP007
    return dict[str, Any] if get_origin(hint) is dict else hint
