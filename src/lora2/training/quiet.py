"""Keeps the progress bars and remarks of other libraries off the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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
