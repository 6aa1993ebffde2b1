"""Content of a file that is not of its format."""

from __future__ import annotations

from collections.abc import Sequence

from lora2.support.repeated import first_repeated


class MalformedError(Exception):
    """Content that is not of its format; the message continues "train_file: PATH ..."."""


def check_names_differ(names: Sequence[str]) -> None:
    """Check that no two columns have one name.

    Raises:
        MalformedError: two have.
    """
    repeated = first_repeated(sorted(names))
    if repeated is not None:
        raise MalformedError(f"has more than one column {repeated!r}; rename all but one")
