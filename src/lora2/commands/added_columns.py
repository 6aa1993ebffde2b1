"""How the columns that a command adds to the rows of a file are named."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lora2.errors import UserError

_PREFIX = "predicted_"


def result_names(present: Iterable[str], added: Sequence[str]) -> list[str]:
    """Return the names of added columns: with "predicted_" in front where one is taken already.

    Raises:
        UserError: both names are taken.
    """
    taken = set(present)
    names = [f"{_PREFIX}{name}" if name in taken else name for name in added]
    for name in names:
        if name in taken:
            raise UserError(
                f"file: it has a column {name!r} and one {name.removeprefix(_PREFIX)!r}, which are "
                "the names of the result; rename one of them."
            )
    return names
