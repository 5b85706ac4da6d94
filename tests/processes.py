"""Processes that tests start: none of them outlives the tests, however these end."""

import os
import select
import signal
import subprocess

from vfl.local import with_parent

die_with_parent = with_parent(signal.SIGKILL)


def wait_for(process: subprocess.Popen[bytes], seconds: float) -> int:
    """The exit code, as soon as there is one: `Popen.wait` looks twenty times a second.

    Raises subprocess.TimeoutExpired.
    """
    if hasattr(os, "pidfd_open") and process.poll() is None:
        handle = os.pidfd_open(process.pid)
        try:
            ended = select.poll()
            ended.register(handle, select.POLLIN)
            ended.poll(1000 * seconds)
        finally:
            os.close(handle)
        seconds = 0.1
    return process.wait(seconds)
