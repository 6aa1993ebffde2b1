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
    parser.add_argument("--model", help="where the base model is now, if it has moved")


def add_batch_size(parser: OptionParser) -> None:
    """Add the option of commands that work through rows."""
    parser.add_argument(
        "--batch_size",
        "--batch-size",
        type=_at_least_one,
        default=64,
        help="rows at once (default: 64)",
    )


def _at_least_one(text: str) -> int:
    # Python reads no number of more than 4,300 digits.
    if not text.isdecimal() or len(text) > 4300 or not SIZE.holds(int(text)):
        raise argparse.ArgumentTypeError(f"{shortened(text)} is not {SIZE}")
    return int(text)
