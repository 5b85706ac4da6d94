"""Memory that Python takes in a block."""

import sys
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

from vfl import kernels

_PATIENCE = 60.0  # seconds for kernels that another test has left running


@contextmanager
def traced() -> Iterator[None]:
    """tracemalloc, begun and ended while no kernel runs: they take memory without the interpreter's
    lock, and Python before 3.12.9 crashes where it ends meanwhile (python/cpython#128679)."""
    _await_kernels()
    tracemalloc.start()
    try:
        yield
    finally:
        _await_kernels()
        tracemalloc.stop()


def _await_kernels() -> None:
    deadline = time.monotonic() + _PATIENCE
    while _in_kernels():
        assert time.monotonic() < deadline, "a kernel of another test still runs"
        time.sleep(0.01)


def _in_kernels() -> bool:
    """Whether another thread is."""
    code = kernels._Kernel.__call__.__code__
    return any(frame.f_code is code for frame in sys._current_frames().values())
