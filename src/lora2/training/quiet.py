"""Keeps the progress bars and remarks of other libraries off the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from lora2.support.extras import require


@contextmanager
def quiet_data_sets() -> Iterator[None]:
    """Show no bar for each pass over a Dataset."""
    datasets = require("datasets", extra="train")
    were_off = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not were_off:
            datasets.enable_progress_bars()


@contextmanager
def printing_on_standard_error() -> Iterator[None]:
    """Print on standard error what a library prints, so that standard output has results alone."""
    with redirect_stdout(sys.stderr):
        yield
