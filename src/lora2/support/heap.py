"""Keeps freed memory in the process, where the C library would hand it back to the system.

On a CPU the activations of a training step are freed and requested again thirty times a minute,
and glibc returns every large block at once: each step then takes its pages from the system again,
zeroed, which costs a tenth to a fifth of it (docs/notebook/performance.md).
"""

import ctypes
import sys
from collections.abc import Callable

# These are the numbers of mallopt(3)'s parameters in <malloc.h>.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_NEVER = 2**31 - 1
_GROW_BY_BYTES = 64 * 2**20


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory for later allocations, and return whether it does.

    Elsewhere (another C library or allocator) nothing changes. The process then holds memory that
    no tensor uses: about what the largest step needed.
    """
    mallopt = _mallopt()
    if mallopt is None:
        return False
    # glibc returns a large block as soon as it is freed, and the end of the heap once it is large.
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _GROW_BY_BYTES))
    return all(mallopt(parameter, value) == 1 for parameter, value in settings)


def _mallopt() -> Callable[[int, int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    function: Callable[[int, int], int] | None = getattr(ctypes.CDLL(None), "mallopt", None)
    return function
