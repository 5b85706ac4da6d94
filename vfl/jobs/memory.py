"""How much memory a process has needed."""

import resource
import sys
from pathlib import Path


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
