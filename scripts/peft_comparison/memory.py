"""How much memory a training takes above what the process had before it."""

from __future__ import annotations

from typing import Any

import psutil
import torch
from torch import nn


class Memory:
    """Memory of one device in bytes; where torch counts none, what this process has in memory."""

    def __init__(self, device: str) -> None:
        accelerator: Any = getattr(torch, device)
        # Neither a CPU nor every accelerator counts what torch keeps.
        self._accelerator = accelerator if hasattr(accelerator, "memory_reserved") else None
        self._device = device
        self._process = psutil.Process()
        self.allocated_log: list[int] = []
        self.reserved_log: list[int] = []
        self._start = 0
        if self._accelerator is None:
            self._start = self._resident()
            return
        # Something must be on the device before it counts.
        nn.Linear(1, 1).to(device)
        self._accelerator.reset_peak_memory_stats()
        self._start = self._accelerator.max_memory_reserved()

    @property
    def largest(self) -> int:
        """The largest so far; where torch counts none, of those after each step."""
        if self._accelerator is None:
            return max(self.reserved_log, default=0)
        return self._accelerator.max_memory_reserved() - self._start

    def log_step(self) -> None:
        """Note what is taken after a step."""
        if self._accelerator is None:
            allocated = reserved = self._resident()
        else:
            allocated = self._accelerator.memory_allocated()
            reserved = self._accelerator.memory_reserved()
        self.allocated_log.append(allocated - self._start)
        self.reserved_log.append(reserved - self._start)

    def empty_cache(self) -> None:
        """Give back what torch keeps for later."""
        if self._accelerator is not None:
            self._accelerator.empty_cache()

    def name(self) -> str:
        """Return the name of the device."""
        return self._device if self._accelerator is None else self._accelerator.get_device_name(0)

    def _resident(self) -> int:
        return self._process.memory_info().rss
