"""How the processes that a launcher has started end."""

import os
import signal
import subprocess
import sys

import pytest

# What aborts stands for gloo, whose threads do so now and then while modules are taken down.
ENDS = """
import atexit, os, sys
from lora2_cli.launched import Ending
ending = Ending()
class Threads:
    def __del__(self, abort=os.abort):
        abort()
threads = Threads()
atexit.register(print, "an exit function")
sys.exit(ending.with_code(3))
"""
WAITS = """
from lora2_cli import launched
launched._SECONDS_TO_SPEAK = 60
print("ready", flush=True)
launched.say("A mistake.", 2)
"""


def started(script: str, rank: int) -> subprocess.Popen[str]:
    paths = os.pathsep.join(path for path in sys.path if path)
    launcher = {"WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "PYTHONPATH": paths}
    return subprocess.Popen(
        [sys.executable, "-c", script], text=True, env=os.environ | launcher,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_exit_functions_run_and_modules_are_not_taken_down() -> None:
    process = started(ENDS, 0)
    printed, _ = process.communicate(timeout=60)
    assert (printed, process.returncode) == ("an exit function\n", 3)


@pytest.mark.parametrize(("rank", "printed"), [(0, "A mistake.\n"), (1, "")])
def test_a_mistake_is_printed_once_and_ends_all_with_one_code(rank: int, printed: str) -> None:
    process = started(WAITS + "raise SystemExit(2)", rank)
    assert process.stdout is not None
    process.stdout.readline()
    if rank:
        # As a launcher does once the first process has ended; a moment later it is waiting.
        while not _heeds(process.pid, signal.SIGTERM):
            assert process.poll() is None
        process.terminate()
    _, error = process.communicate(timeout=60)
    assert (error, process.returncode) == (printed, 2)


def _heeds(process: int, number: int) -> bool:
    """Whether a process has a handler of its own for a signal (Linux)."""
    with open(f"/proc/{process}/status") as status:
        caught = next(line for line in status if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)
