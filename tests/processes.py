"""Processes that tests start: none of them outlives the tests, however these end."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def die_with_parent() -> None:
    """For `preexec_fn`: the kernel kills the new process when the thread that started it is gone.

    On Linux, which is where tests are killed that nobody looks after; elsewhere only fixtures end them.
    """
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == 1:  # it was gone before
            os._exit(1)
