"""Parties forked from a process that has loaded vfl already, which takes most of a short command's time.

Linux alone. The process that forks is a child of the tests; what it forks becomes a child of theirs, too
(PR_SET_CHILD_SUBREAPER), so that it is waited for and signalled as one that they had started themselves.
"""

import ctypes
import gc
import json
import os
import pkgutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from disks import wait_for_no_disk
from processes import die_with_parent

_SUBREAPER, _DEATH_SIGNAL = 36, 1  # of prctl
_MOST = 1 << 20
_server: tuple[int, socket.socket] | None = None  # the tests' process, and the way to the forking one

MODULES = ("alignment", "compiling", "coordinator", "doctor", "host", "scoring", "training")


class Forked(subprocess.Popen[bytes]):
    """A process that this one has not started, but is the parent of."""

    def __init__(self, pid: int, arguments: Sequence[str]) -> None:
        self.args, self.pid, self.returncode = arguments, pid, None  # type: ignore[assignment]
        self.stdin = self.stdout = self.stderr = None
        self._child_created = True
        self._waitpid_lock = threading.Lock()
        self._input = None
        self._communication_started = False


def start(
    arguments: Sequence[str],
    cwd: Path,
    env: Mapping[str, str],
    out: BinaryIO,
    err: BinaryIO,
    program: str = "",
) -> subprocess.Popen[bytes]:
    """`python -m vfl.cli` with these arguments, or `python -c program`, where all is loaded already."""
    way, told = _way(), {"arguments": list(arguments), "cwd": str(cwd), "env": dict(env)}
    request = json.dumps({**told, "program": program}).encode()
    socket.send_fds(way, [request], [out.fileno(), err.fileno()])
    return Forked(int(way.recv(32)), arguments)


def _way() -> socket.socket:
    global _server
    if _server is None or _server[0] != os.getpid():
        _prctl(_SUBREAPER, 1)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            preexec_fn=die_with_parent,
        )
        theirs.close()
        _server = os.getpid(), ours
    return _server[1]


def _prctl(what: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(what, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


# --- The process that forks. ----------------------------------------------------------------------


def serve(way: socket.socket) -> None:
    """Fork whenever asked to, until the tests are gone."""
    import importlib

    from paillier_key import draw_quickly
    from pauses import pause_little

    wait_for_no_disk()
    draw_quickly()
    for name in _modules():
        importlib.import_module(name)
    pause_little()
    _work_once()
    gc.collect()
    gc.freeze()  # nothing of it is garbage in what is forked
    tests = os.getppid()
    while True:
        request, files, *_ = socket.recv_fds(way, _MOST, 2)
        if not request:
            return
        out, err = files
        reading, writing = os.pipe()
        between = os.fork()
        if between == 0:
            way.close()
            pid = os.fork()
            if pid:
                os.write(writing, str(pid).encode())
                os._exit(0)  # the party is the tests' child from now on
            os.close(reading)
            os.close(writing)
            _become(json.loads(request), out, err, tests)
        for one in (out, err, writing):
            os.close(one)
        os.waitpid(between, 0)
        way.send(os.read(reading, 32))
        os.close(reading)


def _modules() -> Iterator[str]:
    """What commands import, of the package and beside it."""
    import vfl.cli
    import vfl.terminal

    yield from (f"vfl.jobs.{name}" for name in MODULES)
    for room in (vfl.cli, vfl.terminal):
        for module in pkgutil.iter_modules(room.__path__, f"{room.__name__}."):
            if not module.name.endswith("__main__"):
                yield module.name
    yield from ("encodings.idna", "encodings.utf_8_sig")


def _work_once() -> None:
    """A job of no interest: what it loads (pandas, compiled kernels) all parties then have."""
    import pandas as pd

    import vfl

    ids = pd.Series(range(40), dtype=str)
    own = pd.DataFrame({"id": ids, "x": range(40), "kind": ["a", "b"] * 20})
    host = pd.DataFrame({"id": ids, "z": [*range(0, 40, 2), *range(1, 40, 2)], "sort": ["c", "d"] * 20})
    settings = {"hosts": {"host": host}, "id": "id", "engine": "protocol"}
    trees = vfl.SecureBoost(**settings, trees=1, depth=1, min_child_rows=5)
    trees.fit(own, ids.index % 3 > 0).predict_proba(own)


def _become(request: Mapping[str, Any], out: int, err: int, tests: int) -> None:
    """The party's process, to its end."""
    import random
    import signal
    import time

    while os.getppid() != tests:
        time.sleep(0.001)
    _prctl(_DEATH_SIGNAL, signal.SIGKILL)
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.close(out)
    os.close(err)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    random.seed()
    sys.argv = ["vfl", *request["arguments"]]
    # What multiprocessing would look for in the main module of a process that it starts.
    sys.modules["__main__"] = type(sys)("__main__")
    import atexit

    from vfl.cli import main

    code: Any = 0
    try:
        if program := request["program"]:
            exec(program, {"__name__": "__main__"})  # noqa: S102 - a test's own
        else:
            main()
    except SystemExit as ending:
        code = ending.code
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
