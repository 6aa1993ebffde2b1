"""Keeps the progress bars and remarks of other libraries off the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from transformers.utils import logging as transformers_logging

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
def quiet_tokenizing() -> Iterator[None]:
    """Show no bar of a Dataset, nor transformers' remark on texts that are cut later."""
    with quiet_data_sets(), quiet_loading():
        yield


@contextmanager
def printing_on_standard_error() -> Iterator[None]:
    """Print on standard error what a library prints, so that standard output has results alone."""
    with redirect_stdout(sys.stderr):
        yield


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Keep transformers' bars and reports off the terminal while it loads a model."""
    verbosity = transformers_logging.get_verbosity()
    had_bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if had_bars:
            transformers_logging.enable_progress_bar()
