"""Tells options that name a task of the package from options that name data of the user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lora2.errors import UserError


def is_named(task: str | None, names: Sequence[str], kind: str, own: Mapping[str, Any]) -> bool:
    """Return whether a named task is wanted, as it is where nothing is given at all.

    Args:
        task: what was written as its name.
        names: of the tasks there are.
        kind: what the tasks are of, as in "a task of images".
        own: the options of the user's own data, by name.

    Raises:
        UserError: a name of none of them, or a name together with the user's own data.
    """
    given = [name for name, value in own.items() if value is not None]
    if task is None and given:
        return False
    if task not in (None, *names):
        raise UserError(
            f"task: got {task!r}, which is no task of {kind}; write one of {', '.join(names)}, or "
            "name data of your own."
        )
    if given:
        raise UserError(
            f"{given[0]}: it is for your own data and does not go with task={task}; leave one of "
            "the two out."
        )
    return True
