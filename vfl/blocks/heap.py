"""Memory that the C library keeps for the next block in place of giving it back."""

import ctypes
import os

KEPT = 1 << 26
"""Bytes that are free and stay, in each of the C library's heaps."""

LARGEST = 1 << 25
"""Bytes of a block that may come from a heap: glibc takes no more."""

_KEEP, _LARGEST = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
_TOLD = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed() -> None:
    """Have blocks of some MB, which come and go with every message of encrypted rows, lie in memory that
    is there: else each is mapped anew and its pages are cleared, a fifth of what sending it takes.

    Nothing changes where the C library knows no such settings, or the environment has them.
    """
    if os.name != "posix" or any(name in os.environ for name in _TOLD):
        return
    settle = getattr(ctypes.CDLL(None), "mallopt", None)
    if settle is None:
        return
    settle(_LARGEST, LARGEST)
    settle(_KEEP, KEPT)
