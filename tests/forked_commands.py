"""`lora2` in children of a process that has imported everything: a command without its start-up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SECONDS = 60


@dataclass(frozen=True)
class Outcome:
    """What came of a command; of several processes, the texts one after the other."""

    code: int
    output: str
    errors: str


class ForkedCommands:
    """The process that forks, and what is asked of it."""

    def __init__(self, folder: Path) -> None:
        self._scratch, self._errors = folder / "scratch", folder / "fork_server.txt"
        self._scratch.mkdir()
        self._server = _start_server(self._errors)

    def call(self, words: list[str], work: Path, **more: Any) -> Outcome:
        """Run `lora2` with these words in the folder `work`.

        Args:
            words: all after `lora2`.
            work: the folder that the command runs in.
            more: what differs from one process that reads nothing and is read; `seconds` until it
                is killed; `program`, a file of Python to run in place of `lora2`.
        """
        defaults = {
            "input": "", "encoding": "utf-8", "broken_pipe": False, "environment": {},
            "processes": 1, "program": None, "seconds": _SECONDS,
        }  # fmt: skip
        place = {"folder": str(work), "scratch": str(self._scratch)}
        request = {"words": words, **place, **defaults, **more}
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(json.dumps(request), file=self._server.stdin, flush=True)
        answer = self._server.stdout.readline()
        assert answer, self._errors.read_text()
        return Outcome(**json.loads(answer))

    def close(self) -> None:
        """End the process."""
        self._server.communicate()


def _start_server(errors: Path) -> subprocess.Popen[str]:
    places = {"PYTHONPATH": os.pathsep.join(sys.path), "HF_HUB_OFFLINE": "1"}
    # A child has the thread that forked alone: a pool of threads would wait for the others.
    threads = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    # A fork copies the table of pages: in large pages a quarter of its time is left (glibc 2.35).
    pages = {"PYTHONMALLOC": "malloc", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    with errors.open("w") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "fork_server"],
            env=os.environ | places | threads | pages,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
        )
