"""Options of the commands that load a run's adapter."""

from __future__ import annotations

import argparse
from pathlib import Path

from lora2.commands.option_parser import OptionParser
from lora2.commands.option_values import at_least_one


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
