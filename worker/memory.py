"""How the process gives memory back: to Python's heap, and to the operating system."""

from __future__ import annotations

import ctypes
import gc

#: When Python looks for unreachable cycles: after so many new objects (not 700), for older ones ten times less often.
#: An unlink leaves next to none, and the search took 6 % of the CPU.
GC_THRESHOLDS = (10_000, 10, 10)

#: Blocks of at least this many bytes are returned to the operating system when they are freed. Without it, glibc raises
#: its own limit to the largest block that was ever freed, and keeps up to twice as much for each of up to eight threads
#: a core: after lists of 10 MB, a worker kept 20 MB for each thread that had read one
#: (https://man7.org/linux/man-pages/man3/mallopt.3.html, `M_MMAP_THRESHOLD`).
LARGE_BLOCK = 256 * 1024

_M_MMAP_THRESHOLD = -3


def prepare() -> None:
    """Set both up, once what the process needs is imported."""
    gc.freeze()  # what was imported stays: it need not be searched again and again
    gc.set_threshold(*GC_THRESHOLDS)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # glibc's; other C libraries do without
        mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK)
