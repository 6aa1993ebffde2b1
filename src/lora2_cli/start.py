"""The imports of a command, which take seconds: PEFT, torch and transformers."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# `import` cannot be the name of a module that Python code imports.
_MODULES = {"import": "import_adapter"}


def import_command(name: str) -> Any:
    """Return the module of a subcommand, or another one of `lora2.commands`.

    Raises:
        KeyboardInterrupt: Ctrl-C, even if an imported package has caught it.
        VariableError: a package cannot follow an environment variable.
    """
    with _without_garbage_collection(), _raising_every_interrupt(), _naming_variable():
        return importlib.import_module(f"lora2.commands.{_MODULES.get(name, name)}")


class VariableError(Exception):
    """An environment variable that a package cannot follow; the text is a whole sentence."""


@contextmanager
def _naming_variable() -> Iterator[None]:
    """Name the environment variable whose value a package could not read when it was imported."""
    try:
        yield
    except ValueError as error:
        found = {
            name: each for name, each in os.environ.items() if each and repr(each) in str(error)
        }
        # Errors of lora2's own are of kinds of their own.
        if type(error) is not ValueError or not found:
            raise
        named = " or ".join(f"{name}={value}" for name, value in found.items())
        raise VariableError(
            f"{named}, an environment variable, cannot be followed ({error}); unset it, or give it "
            "another value."
        ) from error


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Search nothing for garbage that is imported for the first time, now and when Python ends.

    All of it is needed until then, and the search would take a third of a short command's time.
    """
    if "lora2" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def _raising_every_interrupt() -> Iterator[None]:
    """Raise KeyboardInterrupt also where a package has caught it, or raised another error for it.

    Packages try imports that may fail, and compiled ones turn an interrupt into an ImportError.
    """
    handler = signal.getsignal(signal.SIGINT)
    # Python lets the main thread alone set a handler; a caller of `main` may have set its own.
    if (
        handler is not signal.default_int_handler
        or threading.current_thread() is not threading.main_thread()
    ):
        yield
        return
    interrupted = False

    def interrupt(*_: object) -> None:
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    except Exception:
        if interrupted:
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, handler)
    if interrupted:
        raise KeyboardInterrupt
