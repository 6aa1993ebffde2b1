"""Options of the commands that load a run's adapter."""

from __future__ import annotations

import argparse
from pathlib import Path

from lora2.commands.option_parser import OptionParser
from lora2.support.field_types import shortened
from lora2.support.ranges import SIZE


def add_run_options(parser: OptionParser) -> None:
    """Add the options of all commands that load a run's adapter."""
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a finished run")
    add_model(parser)


def add_model(
    parser: OptionParser, text: str = "where the base model is now, if it has moved"
) -> None:
    """Add the option that names a base model; `text` is its help."""
    parser.add_argument("--model", type=_named, help=text)


def add_batch_size(parser: OptionParser, default: int = 64, what: str = "rows") -> None:
    """Add the option of commands that work through rows; `what` is their name in the help."""
    parser.add_argument(
        "--batch_size",
        "--batch-size",
        type=at_least_one,
        default=default,
        help=f"{what} at once (default: {default})",
    )


def add_new_path(parser: OptionParser, what: str = "folder") -> None:
    """Add the option of commands that write something new; `what` it may be is for the help."""
    parser.add_argument("--output", type=Path, required=True, help=f"the {what} to write")


def _named(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError(
            "an empty text names nothing; write a name or a path, or leave it out"
        )
    return text


def at_least_one(text: str) -> int:
    """Return the number that a text is, for argparse.

    Raises:
        ArgumentTypeError: it is not a whole number of at least 1, or too large.
    """
    # Python reads no number of more than 4,300 digits.
    if not text.isdecimal() or len(text) > 4300 or not SIZE.holds(int(text)):
        raise argparse.ArgumentTypeError(f"{shortened(text)} is not {SIZE}")
    return int(text)
