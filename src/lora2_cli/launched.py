"""The processes of one command, which `torchrun` or `accelerate launch` starts: how they end."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import time

_SECONDS_TO_SPEAK = 2.0


def is_launched() -> bool:
    """Whether a launcher has started several processes, of which this is one."""
    size = os.environ.get("WORLD_SIZE", "1")
    # A command that needs the number refuses any other text, in a sentence.
    return size.isdecimal() and int(size) > 1


def speaks() -> bool:
    """Whether this process is the one that prints, where all would print the same."""
    # The first process of each machine prints: another machine may lack a file that this one has.
    return not is_launched() or os.environ.get("LOCAL_RANK", "0") == "0"


def say(sentence: str, code: int) -> None:
    """Print a sentence once for all processes on this machine, which then end with this code."""
    if speaks():
        print(sentence, file=sys.stderr)
        return
    # A launcher ends all processes as soon as one has ended: the first must have spoken. The
    # others are ended by a signal, and would end with its number.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(code))
    time.sleep(_SECONDS_TO_SPEAK)


class Ending:
    """Ends a launched process after its exit functions, before Python takes its modules down.

    By then gloo's threads may end a process with SIGABRT, after all is written; its launcher
    would report a failure. Exit functions run in the reverse order of their registration, so this
    must be made before packages are imported that have some.
    """

    def __init__(self) -> None:
        self._code: int | None = None
        if is_launched():
            atexit.register(self._end)

    def with_code(self, code: int) -> int:
        """Return the code, with which the process will end."""
        self._code = code
        return code

    def _end(self) -> None:
        # None: an error that Python has printed, and for which it has a code of its own.
        if self._code is None:
            return
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(self._code)
