"""How much memory a process has needed, and how it gives back what it needs no more."""

import ctypes
import gc
import resource
import sys
from pathlib import Path

_FEW = 1_000_000  # rows


def peak_memory(pid: int | None = None) -> int:
    """The most memory in bytes that a process (this one by default) has held so far.

    Linux tells it of any process; elsewhere only of this one. (getrusage would do, but on Linux it
    counts what the process that started this one held, too.)
    """
    status = Path(f"/proc/{pid or 'self'}/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if pid is not None:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def keep_for_good() -> None:
    """Let the collector of loops pass over all that there is now: modules, compiled kernels, models.

    For a process that answers within milliseconds: looking through all of it takes some hundred. What is
    kept is freed as ever once nothing refers to it, but for loops.
    """
    gc.collect()
    gc.freeze()


def release_memory(rows: int | None = None) -> None:
    """Give the system back what is not needed any more, of a job or, with `rows`, of what it did with so
    many: few are not worth the time.

    Large arrays in loops of references stay until somebody looks for them, and allocators keep what was
    freed.
    """
    if rows is not None and rows <= _FEW:
        return
    gc.collect()
    if (arrow := sys.modules.get("pyarrow")) is not None:
        arrow.default_memory_pool().release_unused()
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)
