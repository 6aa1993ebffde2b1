"""The resident set of this process and its peak, as Linux counts them."""

from __future__ import annotations

import threading
from pathlib import Path

from lora2.errors import UserError

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
_SECONDS_BETWEEN_SAMPLES = 0.002


class PeakResidentSet:
    """The largest resident set from here on, in bytes.

    The kernel keeps the peak; where it may not be reset, a thread looks every two milliseconds.

    Raises:
        UserError: not Linux.
    """

    def __init__(self) -> None:
        if not _STATUS.is_file():
            raise UserError("memory: the peak of a process can be read on Linux only.")
        self.before = resident_bytes()
        self._sampled = self.before
        self._stop = threading.Event()
        self._sampler: threading.Thread | None = None
        if not _reset_peak():
            self._sampler = threading.Thread(target=self._sample, daemon=True)
            self._sampler.start()

    def finish(self) -> int:
        """Stop watching and return the peak."""
        if self._sampler is None:
            return _status_bytes("VmHWM")
        self._stop.set()
        self._sampler.join()
        return self._sampled

    def _sample(self) -> None:
        while not self._stop.wait(_SECONDS_BETWEEN_SAMPLES):
            self._sampled = max(self._sampled, resident_bytes())


def resident_bytes() -> int:
    """Return the resident set of this process."""
    return _status_bytes("VmRSS")


def _reset_peak() -> bool:
    try:
        _CLEAR.write_text(_RESET_PEAK)
    except OSError:
        return False
    return True


def _status_bytes(name: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise UserError(f"memory: {_STATUS} has no line {name}.")
