"""Locks between processes of one party: who holds one has written down who it is.

A lock is flock(2) on a file. The system lets go of it when its process ends, however it ends: one left
by a process that was killed does not exist. What the file says counts only while it is locked.
"""

import fcntl
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import msgspec

from vfl.errors import DataError, Refused
from vfl.party.files import FOR_PEER, unwritable

_MOST = 1024  # bytes of what a holder says of itself
_ACCOUNT = re.compile(r"://\S*@")
_COMMAND = 160  # characters of a command that are shown
_PATIENCE = 60.0  # seconds for locks that others hold for moments
_PAUSE = (0.001, 0.05)  # seconds between two tries for a lock, first and longest
_STARTED = datetime.now(UTC)


@dataclass(frozen=True)
class Holder:
    """A process that holds a lock."""

    process: int
    command: str
    since: str  # ISO 8601, UTC: when it was started
    machine: str

    def __str__(self) -> str:
        where = "" if self.machine == socket.gethostname() else f" on {self.machine}"
        return f"{self.command} (process {self.process}{where}, since {self.since})"


class Held(Exception):
    """Another process holds the lock: `holder`, if it has said who it is."""

    def __init__(self, holder: Holder | None) -> None:
        super().__init__("held")
        self.holder = holder

    @property
    def who(self) -> str:
        """In words."""
        return "another process" if self.holder is None else str(self.holder)

    def overdue(self, what: str, for_peer: str = FOR_PEER) -> DataError:
        """The error of who has waited long enough for `what`."""
        return DataError(
            f"{what} has been locked for {_PATIENCE:.0f} s by {self.who}: end it, or wait",
            for_peer=for_peer,
        )


@contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock of a file, which is made if need be; `wait` if others have it for moments alone.

    Raises Held while another process (or another descriptor) has the lock, OSError for a file that
    cannot be made or locked.
    """
    handle = _wait(path, _PATIENCE if wait else 0.0)
    try:
        _sign(handle)
        yield
    finally:
        os.close(handle)


@contextmanager
def alone(path: Path, what: str) -> Iterator[None]:
    """Hold a lock, whose file is removed at the end, against all other processes.

    Raises Refused, saying that `what` is at work, and who, when another one holds it, DataError when it
    cannot be locked.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(path))
        except Held as held:
            busy = f"{what} is at work already"
            text = f"{busy}: {held.who}; end that, or wait until it has ended"
            raise Refused(text, for_peer=busy) from None
        except OSError as error:
            raise unwritable(f"{path} cannot be locked", error) from None
        stack.callback(path.unlink, missing_ok=True)
        yield


@contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """Hold a lock for a moment, after whoever has it. Raises DataError when it cannot be had."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(path, wait=True))
        except Held as held:
            raise held.overdue(str(path)) from None
        except OSError as error:
            raise unwritable(f"{path} cannot be locked", error) from None
        yield


def _wait(path: Path, seconds: float) -> int:
    deadline, pause = time.monotonic() + seconds, _PAUSE[0]
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            held = _try(handle, path)
        except BaseException:
            os.close(handle)
            raise
        if held:
            return handle
        by = _read(handle)
        os.close(handle)
        if held is None:
            continue  # who held it removed the file after it was opened here
        if time.monotonic() >= deadline:
            raise Held(by)
        time.sleep(pause)
        pause = min(2 * pause, _PAUSE[1])


def _try(handle: int, path: Path) -> bool | None:
    """Whether the file is locked now; None when it is not the one at the path any more."""
    try:
        try_lock(handle)
        return os.path.samestat(os.fstat(handle), path.stat()) or None
    except BlockingIOError:
        return False
    except FileNotFoundError:
        return None


def try_lock(file: int | BinaryIO) -> None:
    """Lock an open file alone. Raises BlockingIOError while another one has it, OSError where files
    cannot be locked."""
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def forget(path: Path) -> None:
    """Remove the file of a lock that nobody holds. Raises OSError when it is held, or stays."""
    handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        try_lock(handle)
        path.unlink()
    finally:
        os.close(handle)


@contextmanager
def still(path: Path, seconds: float = 5.0) -> Iterator[None]:
    """While nobody has the lock of a file alone, for who only reads; without where that cannot be."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        yield
        return
    try:
        _share(handle, seconds)
        yield
    finally:
        os.close(handle)


@contextmanager
def present(folder: Path, seconds: float = 5.0) -> Iterator[Callable[[], None] | None]:
    """Be present in a folder, for as long as this lasts.

    Gives what ends being the only one, where nobody else is present (others wait for that), else None;
    None as well where folders cannot be locked. Raises OSError when there is no such folder.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            try_lock(handle)
        except OSError:
            _share(handle, seconds)
            yield None
        else:
            yield lambda: fcntl.flock(handle, fcntl.LOCK_SH)
    finally:
        os.close(handle)


def _share(handle: int, seconds: float) -> None:
    """Lock an open file for reading, if that can be had in so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(_PAUSE[0])
                continue
        except OSError:
            pass
        return


def holder(path: Path) -> Holder | None:
    """Who holds the lock of a file now, if anybody who has said so. Changes nothing."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(handle)
    except OSError:
        return None
    finally:
        os.close(handle)
    return None


def _sign(handle: int) -> None:
    """Write down who has the lock. On a full disk it is held all the same."""
    own = msgspec.json.encode(own_holder())
    try:
        if os.pread(handle, _MOST, 0) != own:
            os.ftruncate(handle, 0)
            os.pwrite(handle, own, 0)
    except OSError:
        return


def _read(handle: int) -> Holder | None:
    try:
        return msgspec.json.decode(os.pread(handle, _MOST, 0), type=Holder)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def own_holder() -> Holder:
    """This process, as it writes itself down."""
    return _own(os.getpid())


@lru_cache(maxsize=1)
def _own(process: int) -> Holder:
    since = _STARTED.isoformat(timespec="seconds").replace("+00:00", "Z")
    return Holder(process, _command(), since, socket.gethostname()[:64])


def _command() -> str:
    """How this process was called, as a terminal can take it."""
    program = Path(sys.argv[0] if sys.argv else "")
    # `python -m vfl` and `python -m vfl.cli` are called by the path of the package.
    own = program.name in ("vfl", "") or program.parts[-2:] == ("vfl", "__main__.py")
    own = own or program.parts[-3:] == ("vfl", "cli", "__main__.py")
    name = "vfl" if own else program.name
    # Who reads what runs here is to read no password of an address, as of --mlflow.
    text = " ".join([name, *(_ACCOUNT.sub("://...@", one) for one in sys.argv[1:])])
    shown = "".join(c if c.isprintable() else "?" for c in text)
    return shown if len(shown) <= _COMMAND else shown[: _COMMAND - 3] + "..."
